"""OCT fluid: the published configuration, our recipe on both splits, and what transfer is worth.

MEDUDA_DATA=… python benchmarks/oct.py            (completes oct.csv, then writes oct.md)
MEDUDA_DATA=… python benchmarks/oct.py aerunet 1  (only rows with these words)
MEDUDA_DATA=… python benchmarks/oct.py --page     (writes oct.md from what oct.csv holds)
MEDUDA_DATA=… python benchmarks/oct.py --choose   (completes oct_choice.csv: which recipe)

Every run is the recipe `oct` or a variant of it and makes one set of rows; one that is complete is
not repeated, and an interrupted run continues. A recipe is chosen within the 88 training images: it
is trained on one half of the subjects and scored on the other, and vice versa, for 300 steps unless
its name says otherwise. The 22 test images are read by the final evaluation alone. The column
`start` names the first weights: random ones, or ImageNet's in MobileNetV2, the encoder of AERUNet.

Rows with the source `vessels` are the published study with another start. The checkpoint of HRF's
vessels is not at hand, so the published network first learns the vessels of DRIVE and CHASE, by the
published settings of a crop of 320 px, 1,600 steps. A row of 400 steps on 512 × 512 takes hours
without a GPU.
"""

import itertools
import sys
from dataclasses import replace
from functools import partial

import pandas as pd
from oct_page import CHOICE_STEPS, COLUMNS, PARTS, PUBLISHED_SCORES, TRANSFER_STEPS, page
from tables import RUNS, asked, complete, data_root, imagenet_mobilenetv2, main, trained

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Deformation, Geometry, Photometry
from keras_meduda.data.io import read_mask
from keras_meduda.evaluation.ensemble import flips
from keras_meduda.evaluation.predict import predict_all
from keras_meduda.evaluation.statistics import summarise
from keras_meduda.experiment.data import Data
from keras_meduda.methods import Supervised
from keras_meduda.recipes import oct

WORK = RUNS / "oct_benchmark"
VESSEL_STEPS = 1600
HALVES = [[f"subject_{n}" for n in half] for half in (range(0, 10, 2), range(1, 10, 2))]
STRONG = {
    "geometry": Geometry(rotation=20.0, scale=0.5, shift=0.1),
    "source_photometry": Photometry(blur=1.0),
}
UNET = partial(km.models.UNet, filters=(16, 32, 64, 128, 256))
CANDIDATES = {  # what each changes of our recipe, see `variant`
    "own": {},
    "strong": {"batches": STRONG},
    "bent": {
        "batches": {
            "geometry": Deformation(stretch=0.3, turns=False, flips=False),
            "source_photometry": Photometry(blur=1.0),
        }
    },
    "flip": {  # no pixel interpolated: fluid is parted by lines one pixel wide
        "batches": {
            "geometry": Geometry(rotation=0.0, scale=0.0, shift=0.0),
            "source_photometry": Photometry(brightness=0.1, blur=0.0, noise=0.02, probability=0.5),
        }
    },
    "cross_entropy": {"loss": km.losses.cross_entropy},
    "dice": {"loss": km.losses.joint_dice_loss},
    "unet": {"network": UNET},
    "wide": {"network": partial(km.models.AERUNet, filters=(24, 48, 96, 192, 384))},
    "own_1600": {"steps": 1600},
    "own_1600_flips": {"steps": 1600},  # the same networks, predictions averaged with the mirrored
    "strong_1600": {"steps": 1600, "batches": STRONG},
    "clahe_1600": {
        "steps": 1600,
        "preprocessing": km.Preprocessing(
            (256, 256), intensity=("clahe",), normalise="zero_one", channels=1
        ),
    },
    "unet_1600": {"steps": 1600, "network": UNET},
}


def own(**flags):
    """Our recipe, or that of other flags."""
    flags = oct.Flags(root=data_root() / "oct_chiu", **flags)
    return oct.recipe(flags, Data(km.Task(("fluid",)), {}, {}, "Chiu 2015"))


def variant(steps=CHOICE_STEPS, loss=None, **changes):
    """Our recipe with other steps, loss or fields."""
    recipe = replace(own(steps=steps), **changes)
    if loss is None:
        return recipe
    stage = replace(
        recipe.stages["trained"],
        method=lambda network, batches: Supervised(network, overlapping=False, loss=loss),
    )
    return replace(recipe, stages={"trained": stage})


def chiu(split="published", fold=None):
    """The cases of the Chiu data set, with their subjects as the groups."""
    cases, task = catalog.chiu(data_root() / "oct_chiu", split, fold)
    cases = cases.assign(group=cases.get("subject", cases["group"]))
    train, test = (cases[cases["split"] == part] for part in ("train", "test"))
    return Data(task, {"source": train}, {"test": test}, f"Chiu 2015, split {split}")


def fit(recipe, data, name, seed=0):
    """One training; returns [(run, tested cases)] and its minutes."""
    recipe = replace(recipe, stages={name: recipe.stages["trained"]})
    run, minutes = trained(recipe, data, name, WORK, seed)
    return [(run, data.tests["test"])], minutes


def together(parts):
    """Several trainings, scored together."""
    runs, minutes = zip(*parts, strict=True)
    return list(itertools.chain(*runs)), sum(minutes)


def discs():
    """A network that was trained on the optic discs of REFUGE, in grey, by the same recipe."""
    cases, _ = catalog.refuge(data_root() / "fundus" / "refuge")
    train = cases[cases["split"] == "train"]
    data = Data(km.Task(("disc",), values={"disc": (128, 255)}), {"source": train}, {}, "discs")
    return trained(own(steps=TRANSFER_STEPS), data, "trained", WORK / "discs")[0]


def vessels():
    """The published network, trained on the vessels of two cameras of the eye."""
    cases = km.read_cases(data_root() / "shifts" / "vessels" / "cases.csv")
    train = cases[cases["split"] == "train"]
    data = Data(km.Task(("vessel",)), {"source": train}, {}, "vessels")
    recipe = own(preset="crop_320", steps=VESSEL_STEPS)
    return trained(recipe, data, "trained", WORK / "vessels")[0]


def from_vessels(preset):
    """A row of the published table that begins with the vessels."""
    return published(f"vessels_{preset}", preset=preset, init=vessels().path)


def transfer(method, count):
    """Our recipe, shorter, on all or a few training images, from scratch or from the discs."""
    data = chiu()
    cases = data.parts["source"]
    if count < len(cases):
        cases = cases.sample(count, random_state=0).sort_index()
    init = None if method == "scratch" else discs().path
    recipe = own(steps=TRANSFER_STEPS, init=init, train=PARTS[method])
    return fit(recipe, replace(data, parts={"source": cases}), f"{method}_{count}")


def left_out():
    """Our recipe once for every two subjects that are left out."""
    return together(fit(own(), chiu("subject", n), f"subject-{n}") for n in range(5))


def choice(name):
    """A candidate, trained on one half of the subjects at a time, scored on the other."""
    data, recipe, folder = chiu(), variant(**CANDIDATES[name]), name.removesuffix("_flips")
    cases = data.parts["source"]

    def half(subjects):
        out = cases["subject"].isin(subjects)
        parts = replace(data, parts={"source": cases[~out]}, tests={"test": cases[out]})
        return fit(recipe, parts, f"choice-{folder}-{subjects[0]}")

    runs, minutes = together(map(half, HALVES))
    return [(flips(r, "X") if name.endswith("_flips") else r, c) for r, c in runs], minutes


def published(name, seed=0, **flags):
    """Our recipe, or that of other flags, on the published split."""
    return fit(own(**flags), chiu(), name, seed)


def pretrained(name, seed, steps):
    """Our recipe with an encoder that begins with ImageNet's weights."""
    start = {"backbone": "mobilenetv2", "weights": str(imagenet_mobilenetv2())}
    return published(name, seed, steps=steps, **start)


def wanted():
    """Row sets in the order in which they are made."""
    for names, make in made():
        start = "imagenet" if names[0] == "aerunet_mobilenetv2" else "random"
        yield (*names, start), make


def made():
    """The same without their start."""
    # The best row of the published table, from scratch: its checkpoint is not at hand
    best = partial(scores, partial(published, "unet_s5_d16_psp", preset="best"))
    yield key("unet_s5_d16_psp", "published", "scratch"), best
    for (method, steps), seed in itertools.product((("scratch", 800), ("longer", 1600)), range(3)):
        made = partial(published, f"own_{steps}", seed, steps=steps)
        yield key("aerunet", "published", method, seed), partial(scores, made)
    for (method, steps), seed in itertools.product((("scratch", 800), ("longer", 1600)), range(3)):
        made = partial(pretrained, f"imagenet_{steps}", seed, steps)
        yield key("aerunet_mobilenetv2", "published", method, seed), partial(scores, made)
    yield key("aerunet", "subject", "scratch"), partial(scores, left_out)
    for preset in PUBLISHED_SCORES:
        made = partial(scores, from_vessels, preset)
        yield key("unet_s5_d16_psp", "published", preset, source="vessels"), made
    for count, method in itertools.product((8, 88), PARTS):
        source = "-" if method == "scratch" else "refuge"
        made = partial(scores, transfer, method, count)
        yield key("aerunet", "published", f"{method}_{count}", source=source), made


def candidates():
    """Row sets of the choice of a recipe."""
    for name in CANDIDATES:
        network = "unet" if name.startswith("unet") else "aerunet"
        yield key(network, "subject", name), partial(scores, choice, name)


def key(network, split, method, seed=0, source="-"):
    """Which row set it is."""
    return network, source, "chiu", split, method, str(seed)


def label_pairs(run, cases):
    """Predicted and reference labels of every case, for `km.metrics.totals`."""
    predictions = predict_all(run, list(cases["image"]))
    for probabilities, mask in zip(predictions, cases["mask"], strict=True):
        yield probabilities.argmax(axis=-1), read_mask(mask, run.task)


def scores(make, *arguments):
    """Totals over all pixels, as published, and by B-scan."""
    runs, minutes = make(*arguments)
    frame = pd.concat([km.evaluate(run, test) for run, test in runs])
    pairs = itertools.chain.from_iterable(label_pairs(run, test) for run, test in runs)
    totals = km.metrics.totals(pairs, ["fluid"])
    fluid = summarise(frame)["classes"]["fluid"]
    return [
        ("all", "mdice", totals["mdice"], "1"),
        ("all", "miou", totals["miou"], "1"),
        ("fluid", "dice_total", totals["dice"]["fluid"], "1"),
        ("fluid", "iou_total", totals["iou"]["fluid"], "1"),
        ("fluid", "dice", fluid["dice"]["mean"], "1"),
        ("fluid", "dice_ci95_low", fluid["dice"]["ci95"][0], "1"),
        ("fluid", "dice_ci95_high", fluid["dice"]["ci95"][1], "1"),
        ("fluid", "iou", fluid["iou"]["mean"], "1"),
        ("fluid", "hd95", fluid["hd95"]["mean"], "px"),
        ("fluid", "assd", fluid["assd"]["mean"], "px"),
    ], minutes


if __name__ == "__main__":
    if "--choose" in sys.argv:
        words = [word for word in sys.argv[1:] if not word.startswith("--")]
        command = "python benchmarks/oct.py --choose"
        complete("oct_choice", asked(candidates(), words), command)
    else:
        main("oct", wanted(), partial(page, __doc__.split("\n\n")[2]), COLUMNS)
