"""Fundus: what adaptation closes of the gap between source only and the oracle, on real cameras.

MEDUDA_DATA=… python benchmarks/fundus.py                   (completes fundus.csv and fundus.md)
MEDUDA_DATA=… python benchmarks/fundus.py aerunet refuge-refuge_camera 0    (only these rows)
MEDUDA_DATA=… python benchmarks/fundus.py --page            (writes fundus.md from fundus.csv)

AERUNet with filters 16…256 at 192 × 192, 600 steps of 8 (a domain); DeepLabV3+ and UNet with
MobileNetV2 at 128 × 128, 400 steps of 8 (a domain). The column `start` names the network's first
weights: random ones, or ImageNet's in the encoder (`mobilenetv2_notop.weights.h5` in the folder
`pretrained` beside `MEDUDA_DATA`). Weights of the last step. Each run is a set of rows; one that is
complete is not repeated, so the command may be stopped at any time. Target labels are read by the
evaluation, and by the oracle, alone.
"""

import itertools
from dataclasses import replace
from functools import partial

from tables import KEY, RUNS, data_root, main, markdown, mean_scores, read, spread, trained

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Photometry
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import read_image, write_picture
from keras_meduda.data.phantoms import camera
from keras_meduda.experiment.data import Data
from keras_meduda.experiment.recipe import Recipe, Stage, adam, supervised
from keras_meduda.methods import CategoryRegularization, KLDistillation
from keras_meduda.methods.category_regularization import BEAL, MEAN_TEACHER, SOURCE_ONLY
from keras_meduda.recipes.uda_clr import augmentation, compile_with

WORK = RUNS / "fundus_benchmark"
COLUMNS = (*KEY, "start")
SHIFTS = {  # source, target: name of the target's split
    ("refuge", "refuge_camera"): "subject",
    ("drishti_gs", "refuge"): "subject",
    ("refuge", "drishti_gs"): "official",
}
# What a stage changes of the source: half of it in the target's histograms, or with other colours
STYLED, RECOLOURED = {"source_styles": 4}, {"batches": {"source_photometry": Photometry()}}
TERMS = ("alignment", "discriminative", "consistency")


def from_imagenet(build, **settings):
    """A network whose MobileNetV2 has ImageNet's weights."""

    def network(shape, channels):
        weights = data_root().parent / "pretrained" / "mobilenetv2_notop.weights.h5"
        return build(shape, channels, backbone="mobilenetv2", weights=weights, **settings)

    return network


def kl(mode="style", change=(), **settings):
    """KL distillation that goes on from source only."""
    return Stage(
        lambda network, batches: KLDistillation(network, overlapping=True, mode=mode, **settings),
        uses=("source", "target"),
        start="source_only",
        compile=adam(5e-4),
        target_styles=4 if mode == "style" else 0,
        **dict(change),
    )


def clr(settings, change=(), start="fresh", uses=("source", "target")):
    """A form of category-level regularisation, for as many steps from scratch."""
    return Stage(
        lambda network, batches: CategoryRegularization(network, overlapping=True, **settings),
        uses=uses,
        start=start,
        compile=compile_with(1e-3),
        **dict(change),
    )


def compared(**methods):
    """The stages of source only and oracle, trained by segmentation alone, and further ones."""
    return {
        "source_only": Stage(supervised),
        "oracle": Stage(supervised, uses=("oracle",)),
        **methods,
    }


BOTH, JOINT, BALANCED = STYLED | RECOLOURED, {"separate": False}, {"balanced": True}
RECIPES = {  # by network and start
    ("aerunet", "random"): Recipe(
        title="AERUNet",
        network=partial(km.models.AERUNet, filters=(16, 32, 64, 128, 256)),
        preprocessing=km.Preprocessing((192, 192), intensity=("clahe",), normalise="zero_one"),
        steps=600,
        stages=compared(
            kl_distillation_style=kl(ema=0.99),
            kl_distillation_marginal=kl("marginal"),
            kl_distillation_frozen=kl(),
            kl_distillation_strong=kl("strong", ema=0.99),
            kl_distillation_strong_styled=kl("strong", ema=0.99, change=BOTH),
            kl_distillation_recoloured=kl(ema=0.99, change=RECOLOURED),
            kl_distillation_both_styles=kl(ema=0.99, change=STYLED),
            kl_distillation_confident=kl(
                "strong", ema=0.99, temperature=1.0, confidence=0.9, change=RECOLOURED
            ),
            kl_distillation_heavy=kl(ema=0.99, weight=5.0),
        ),
    ),
    ("deeplabv3plus_mobilenetv2", "random"): Recipe(
        title="DeepLabV3+",
        network=km.models.DeepLabV3Plus,
        preprocessing=km.Preprocessing((128, 128)),
        steps=400,
        batches={"boundary": True, **augmentation()},
        stages={
            "source_only": clr(SOURCE_ONLY, uses=("source",)),
            "oracle": clr(SOURCE_ONLY, uses=("oracle",)),
            "beal": clr(BEAL),
            "mean_teacher": clr(MEAN_TEACHER),
            "category_regularization": clr({}),
            "category_regularization_styled": clr({}, BOTH),
            "category_regularization_balanced": clr(BALANCED),
            "category_regularization_styled_balanced": clr(BALANCED, BOTH),
            "source_only_styled_continued": clr(SOURCE_ONLY, BOTH, "source_only"),
            "beal_styled_continued": clr(BEAL, BOTH, "source_only"),
            "mean_teacher_styled_continued": clr(MEAN_TEACHER, BOTH, "source_only"),
            "category_regularization_styled_continued": clr({}, BOTH, "source_only"),
            **{
                f"category_regularization_styled_without_{term}": clr({term: 0.0}, BOTH)
                for term in TERMS
            },
            "beal_joint": clr(BEAL | JOINT),
            "mean_teacher_joint": clr(MEAN_TEACHER | JOINT),
            "category_regularization_joint": clr(JOINT),
            "category_regularization_joint_styled": clr(JOINT, BOTH),
            "category_regularization_joint_late": clr({"warm_up": 0.5} | JOINT),
            "category_regularization_joint_balanced": clr(BALANCED | JOINT),
            **{
                f"category_regularization_joint_without_{term}": clr({term: 0.0} | JOINT)
                for term in TERMS
            },
        },
    ),
}
DEEPLAB = RECIPES["deeplabv3plus_mobilenetv2", "random"]
PUBLISHED = (
    "source_only", "oracle", "beal", "mean_teacher", "category_regularization",
    "category_regularization_styled",
)  # fmt: skip
RECIPES |= {
    ("deeplabv3plus_mobilenetv2", "imagenet"): replace(
        DEEPLAB,
        network=from_imagenet(km.models.DeepLabV3Plus),
        stages={name: DEEPLAB.stages[name] for name in PUBLISHED},
    ),
    ("unet_mobilenetv2", "imagenet"): Recipe(
        title="UNet",
        network=from_imagenet(km.models.UNet),
        preprocessing=km.Preprocessing((128, 128)),
        steps=400,
        stages=compared(
            kl_distillation_strong_styled=kl("strong", ema=0.99, change=BOTH),
            kl_distillation_strong_styled_guarded=kl("strong", ema=0.99, guard=True, change=BOTH),
        ),
    ),
    ("aerunet_mobilenetv2", "imagenet"): Recipe(
        title="AERUNet",
        network=from_imagenet(km.models.AERUNet),
        preprocessing=km.Preprocessing((128, 128)),
        steps=400,
        stages=compared(kl_distillation_strong_styled=kl("strong", ema=0.99, change=BOTH)),
    ),
}
MADE_FOR_OTHERS = (
    "category_regularization_balanced", "category_regularization_styled_balanced",
    "category_regularization_joint_balanced",
)  # fmt: skip
SEVERAL_SEEDS = (
    "source_only", "oracle", "kl_distillation_style", "kl_distillation_strong_styled", "beal",
    "mean_teacher", "category_regularization", "category_regularization_styled", "beal_joint",
    "mean_teacher_joint", "category_regularization_joint", "category_regularization_joint_styled",
    "source_only_styled_continued", "beal_styled_continued", "mean_teacher_styled_continued",
    "category_regularization_styled_continued", "kl_distillation_strong_styled_guarded",
)  # fmt: skip


def domain(name):
    """Cases and task of a data set; `refuge_camera` is REFUGE seen through the phantom camera."""
    root = data_root() / "fundus"
    if name == "drishti_gs":
        return catalog.drishti_gs(root / "drishti_gs")
    cases, task = catalog.refuge(root / "refuge")
    if name == "refuge":
        return cases, task
    seen = []
    for number, row in enumerate(cases.itertuples()):
        picture = WORK / "refuge_camera" / f"{row.case}.png"
        if not picture.exists():
            write_picture(picture, camera(read_image(row.image).array, seed=number))
        seen.append(str(picture))
    return cases.assign(image=seen, domain="refuge_camera"), task


def shift(source_name, target_name):
    """The cases of a shift; all of REFUGE trains for Drishti-GS, else a source's training part."""
    (source, task), (target, _) = domain(source_name), domain(target_name)
    if target_name != "drishti_gs":
        source = source[source["split"] == "train"]
    train, test = (target[target["split"] == part] for part in ("train", "test"))
    parts = {"source": source, "target": without_masks(train), "oracle": train}
    return Data(task, parts, {"target, test": test}, f"{source_name} → {target_name}")


def scored(network, start, source, target, method, seed):
    """Every metric of every class, means over the test cases, and the minutes of the training."""
    own = network if start == "random" else f"{network}_{start}"
    data, folder = shift(source, target), WORK / f"{own}-{source}-{target}"
    run, minutes = trained(RECIPES[network, start], data, method, folder, seed)
    frame = km.evaluate(run, data.tests["target, test"], data.task)
    frame.to_csv(run.path / "cases.csv", index=False)
    return mean_scores(frame), minutes


def wanted():
    """Row sets in the order in which they are made, every shift with seed 0 first.

    Ablations and most options are single runs, and DeepLabV3+ keeps to DRISHTI-GS → REFUGE with
    them but for those that were made for the other shifts.
    """
    for seed, (network, start) in itertools.product((0, 1, 2), RECIPES):
        for pair, method in itertools.product(SHIFTS, RECIPES[network, start].stages):
            single = method not in SEVERAL_SEEDS
            narrow = network != "aerunet" and pair != ("drishti_gs", "refuge")
            if single and (seed or (narrow and method not in MADE_FOR_OTHERS)):
                continue
            key = (network, *pair, SHIFTS[pair], method, str(seed), start)
            yield key, partial(scored, network, start, *pair, method, seed)


def page():
    """The lines of fundus.md."""
    table = read("fundus", COLUMNS).astype({"value": float})
    yield from (
        "# Fundus: optic cup and disc across cameras",
        "",
        "Made from `fundus.csv`, whose rows name their command; `python benchmarks/fundus.py` "
        "completes it. Do not edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "Mean over seeds, ± half the range between them where there are several; gap closed = "
        "(adapted − source only) / (oracle − source only) of the mean Dice of cup and disc, by "
        "seed. HD95 is MedPy's (95th percentile of the pooled surface distances), in px of the "
        "512 × 512 images.",
    )
    for (network, start), ((source, target), split) in itertools.product(RECIPES, SHIFTS.items()):
        own = (table["network"] == network) & (table["start"] == start)
        rows = table[own & (table["source"] == source) & (table["target"] == target)]
        if len(rows):
            heading = f"{network} from {start} weights: {source} → {target} ({split} split)"
            yield from ("", f"## {heading}", "")
            columns = ("method", "seeds", "Dice cup", "Dice disc", "mean Dice", "gap closed")
            columns += ("HD95 cup", "HD95 disc", "vCDR error")
            yield from markdown(columns, cells(rows, RECIPES[network, start].stages))


def cells(rows, methods):
    """What the table of one network and shift says of each method."""
    wide = rows.pivot_table(index=["method", "seed"], columns=["class", "metric"], values="value")
    mean = (wide["cup", "dice"] + wide["disc", "dice"]) / 2
    for method in methods:
        if method not in wide.index.get_level_values("method"):
            continue
        own, seeds = wide.loc[method], mean.loc[method].index
        closed = [
            100
            * (mean[method, s] - mean["source_only", s])
            / (mean["oracle", s] - mean["source_only", s])
            for s in seeds
            if ("oracle", s) in mean.index and ("source_only", s) in mean.index
        ]
        reference = method in ("source_only", "oracle") or not closed
        known = "" if len(closed) == len(seeds) else f" ({len(closed)} of {len(seeds)} seeds)"
        yield (
            method,
            ", ".join(seeds),
            spread(own["cup", "dice"]),
            spread(own["disc", "dice"]),
            spread(mean.loc[method]),
            "–" if reference else f"{spread(closed, 0)} %{known}",
            spread(own["cup", "hd95"], 1),
            spread(own["disc", "hd95"], 1),
            spread(own["cup", "vcdr_error"]),
        )


if __name__ == "__main__":
    main("fundus", wanted(), page, COLUMNS)
