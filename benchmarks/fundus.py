"""Fundus: what adaptation closes of the gap between source only and the oracle, on real cameras.

MEDUDA_DATA=… python benchmarks/fundus.py                   (completes fundus.csv and fundus.md)
MEDUDA_DATA=… python benchmarks/fundus.py aerunet refuge-refuge_camera 0    (only these rows)
MEDUDA_DATA=… python benchmarks/fundus.py --page            (writes fundus.md from fundus.csv)

AERUNet with filters 16…256 at 192 × 192, 600 steps of 8 (a domain); DeepLabV3+ with MobileNetV2,
from scratch (no ImageNet weights were at hand) at 128 × 128, 400 steps of 8 (a domain). Weights of
the last step. Each run is a set of rows; one that is complete is not repeated, so the command may
be stopped at any time. Target labels are read by the evaluation, and by the oracle, alone.
"""

import itertools
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as keras_meduda, but before Keras
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import keras
from tables import asked, complete, mean_scores, read, spread, timed
from train_uda_clr import augmentation, compile_method

import keras_meduda as km
from keras_meduda.data import catalog
from keras_meduda.data.augment import Photometry
from keras_meduda.data.cases import without_masks
from keras_meduda.data.io import read_image, replacing, write_picture
from keras_meduda.data.phantoms import camera
from keras_meduda.data.pipeline import Batches, add_styles, prepare
from keras_meduda.methods import CategoryRegularization, KLDistillation, Supervised
from keras_meduda.methods.category_regularization import BEAL, MEAN_TEACHER, SOURCE_ONLY

HERE = Path(__file__).parent
TABLE = HERE / "fundus.csv"
COMMAND = "python benchmarks/fundus.py"
WORK = HERE.parent / "runs" / "fundus_benchmark"
STORE, BATCH = WORK / "prepared", 8
SHIFTS = {  # source, target: name of the target's split
    ("refuge", "refuge_camera"): "subject",
    ("drishti_gs", "refuge"): "subject",
    ("refuge", "drishti_gs"): "official",
}
KL = {  # settings of KLDistillation
    "kl_distillation_style": {"ema": 0.99},
    "kl_distillation_marginal": {"mode": "marginal"},
    "kl_distillation_frozen": {},
    "kl_distillation_strong": {"mode": "strong", "ema": 0.99},
    "kl_distillation_strong_styled": {"mode": "strong", "ema": 0.99},
    "kl_distillation_recoloured": {"ema": 0.99},
    "kl_distillation_both_styles": {"ema": 0.99},
    "kl_distillation_confident": {
        "mode": "strong", "ema": 0.99, "temperature": 1.0, "confidence": 0.9,
    },
    "kl_distillation_heavy": {"ema": 0.99, "weight": 5.0},
}  # fmt: skip
TERMS = ("alignment", "discriminative", "consistency")
ABLATION = {
    f"category_regularization_styled_without_{term}": {term: 0.0} for term in TERMS
}
# The source as well: half of it in the target's histograms, or with other colours
STYLED = (
    "kl_distillation_both_styles", "kl_distillation_strong_styled",
    "category_regularization_styled", "category_regularization_styled_balanced",
    "category_regularization_joint_styled", "category_regularization_styled_continued",
    "source_only_styled_continued", "beal_styled_continued", "mean_teacher_styled_continued",
    *ABLATION,
)  # fmt: skip
RECOLOURED = (*STYLED[1:], "kl_distillation_recoloured", "kl_distillation_confident")
JOINT = {"separate": False}
REGULARISATION = {  # settings of CategoryRegularization
    "source_only": SOURCE_ONLY,
    "oracle": SOURCE_ONLY,
    "beal": BEAL,
    "mean_teacher": MEAN_TEACHER,
    "category_regularization": {},
    "category_regularization_styled": {},
    "category_regularization_balanced": {"balanced": True},
    "category_regularization_styled_balanced": {"balanced": True},
    "source_only_styled_continued": SOURCE_ONLY,
    "beal_styled_continued": BEAL,
    "mean_teacher_styled_continued": MEAN_TEACHER,
    "category_regularization_styled_continued": {},
    **ABLATION,
    "beal_joint": {**BEAL, **JOINT},
    "mean_teacher_joint": {**MEAN_TEACHER, **JOINT},
    "category_regularization_joint": JOINT,
    "category_regularization_joint_styled": JOINT,
    "category_regularization_joint_late": {"warm_up": 0.5, **JOINT},
    "category_regularization_joint_balanced": {"balanced": True, **JOINT},
    **{f"category_regularization_joint_without_{term}": {term: 0.0, **JOINT} for term in TERMS},
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
    "category_regularization_styled_continued",
)  # fmt: skip
METHODS = {
    "aerunet": ("source_only", "oracle", *KL),
    "deeplabv3plus_mobilenetv2": tuple(REGULARISATION),
}


def domain(name):
    """Cases and task of a data set; `refuge_camera` is REFUGE seen through the phantom camera."""
    root = Path(os.environ["MEDUDA_DATA"]) / "fundus"
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


def part(cases, name):
    """The cases of a split."""
    return cases[cases["split"] == name]


def halves(source_name, target_name, method, preprocessing):
    """What `Batches` takes: the oracle's source is the target with its labels."""
    (source, task), (target, target_task) = domain(source_name), domain(target_name)
    target = part(target, "train")
    if method == "oracle":
        return {"source": prepare(target, target_task, preprocessing, STORE, labels=True)}
    if {source_name, target_name} == {"refuge", "refuge_camera"} or source_name == "drishti_gs":
        source = part(source, "train")  # the rest of REFUGE is what is scored
    labelled = {"source": prepare(source, task, preprocessing, STORE, labels=True)}
    if method == "source_only":
        return labelled
    target = prepare(without_masks(target), target_task, preprocessing, STORE, labels=False)
    return {**labelled, "target": target}


def source_changed(method, data, seed):
    """What --augment-source of the scripts changes of a training's batches, or a part of it."""
    changed = {}
    if method in STYLED:
        changed["source"] = add_styles(data["source"], data["target"], STORE, seed=seed)
    if method in RECOLOURED:
        changed["source_photometry"] = Photometry()
    return changed


def aerunet(source, target, method, seed):
    """Source only and oracle; KL distillation goes on from source only for as many steps."""
    preprocessing = km.Preprocessing(size=(192, 192), intensity=("clahe",), normalise="zero_one")
    data = halves(source, target, method, preprocessing)
    adapts = "target" in data
    start = aerunet(source, target, "source_only", seed)[0] if adapts else None
    if adapts and KL[method].get("mode", "style") == "style":
        data["target"] = add_styles(data["target"], data["source"], STORE, seed=seed)
    data |= source_changed(method, data, seed)
    with km.setup(seed=seed):
        if adapts:
            network = km.load(start.path).network
            model = KLDistillation(network, overlapping=True, **KL[method])
        else:
            network = km.models.AERUNet((192, 192, 3), 2, filters=(16, 32, 64, 128, 256))
            model = Supervised(network, overlapping=True)
        rate = keras.optimizers.schedules.CosineDecay(5e-4 if adapts else 1e-3, 600)
        model.compile(keras.optimizers.Adam(rate))
    return fit(WORK / f"{source}-{target}" / f"{method}-{seed}", model, 600, seed, **data)


def deeplab(source, target, method, seed):
    """Every method from scratch and for as many steps, with the augmentation of UDA_CLR."""
    data = halves(source, target, method, km.Preprocessing(size=(128, 128)))
    data = {**augmentation(), **data, **source_changed(method, data, seed)}
    continued = "_continued" in method
    start = deeplab(source, target, "source_only", seed)[0] if continued else None
    with km.setup(seed=seed):
        if continued:
            network = km.load(start.path).network
        else:
            network = km.models.DeepLabV3Plus((128, 128, 3), channels=2)
        model = CategoryRegularization(network, overlapping=True, **REGULARISATION[method])
        compile_method(model, 1e-3, 400)
    folder = WORK / f"{source}-{target}" / f"deeplab-{method}-{seed}"
    return fit(folder, model, 400, seed, boundary=True, **data)


def fit(folder, model, steps, seed, **batches):
    """One training; returns the run and its minutes."""
    batches = Batches(BATCH, seed, **batches)
    return timed(folder, lambda: km.fit(model, batches, steps=steps, run_dir=folder))


def scored(network, source, target, method, seed):
    """Every metric of every class, means over the test cases, and the minutes of the training."""
    make = aerunet if network == "aerunet" else deeplab
    run, minutes = make(source, target, method, seed)
    cases, task = domain(target)
    frame = km.evaluate(run, part(cases, "test"), task)
    frame.to_csv(run.path / "cases.csv", index=False)
    return mean_scores(frame), minutes


def wanted():
    """Row sets in the order in which they are made, every shift with seed 0 first.

    Ablations and most options are single runs, and DeepLabV3+ keeps to DRISHTI-GS → REFUGE with
    them but for those that were made for the other shifts.
    """
    for seed, network in itertools.product((0, 1, 2), METHODS):
        for shift, method in itertools.product(SHIFTS, METHODS[network]):
            single = method not in SEVERAL_SEEDS
            narrow = network != "aerunet" and shift != ("drishti_gs", "refuge")
            if single and (seed or (narrow and method not in MADE_FOR_OTHERS)):
                continue
            key = (network, *shift, SHIFTS[shift], method, str(seed))
            yield key, partial(scored, network, *shift, method, seed)


def page():
    """Writes fundus.md."""
    table = read(TABLE).astype({"value": float})
    lines = [
        "# Fundus: optic cup and disc across cameras",
        "",
        f"Made from `fundus.csv`, whose rows name their command; `{COMMAND}` completes it. Do not "
        "edit.",
        "",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "Mean over seeds, ± half the range between them where there are several; gap closed = "
        "(adapted − source only) / (oracle − source only) of the mean Dice of cup and disc, by "
        "seed. HD95 is MedPy's (95th percentile of the pooled surface distances), in px of the "
        "512 × 512 images.",
    ]
    for network, methods in METHODS.items():
        for (source, target), split in SHIFTS.items():
            own = table["network"] == network
            shift = table[own & (table["source"] == source) & (table["target"] == target)]
            if len(shift):
                lines += ["", f"## {network}: {source} → {target} ({split} split)", ""]
                lines += shift_table(shift, methods)
    notes = HERE / "fundus_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    with replacing(HERE / "fundus.md") as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")


def shift_table(shift, methods):
    """The Markdown table of one network and shift."""
    wide = shift.pivot_table(index=["method", "seed"], columns=["class", "metric"], values="value")
    mean = (wide["cup", "dice"] + wide["disc", "dice"]) / 2
    yield (
        "| method | seeds | Dice cup | Dice disc | mean Dice | gap closed | HD95 cup | HD95 disc "
        "| vCDR error |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
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
        cells = [
            method,
            ", ".join(seeds),
            spread(own["cup", "dice"]),
            spread(own["disc", "dice"]),
            spread(mean.loc[method]),
            "–" if reference else f"{spread(closed, 0)} %{known}",
            spread(own["cup", "hd95"], 1),
            spread(own["disc", "hd95"], 1),
            spread(own["cup", "vcdr_error"]),
        ]
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--page"]
    if "--page" not in sys.argv:
        complete(TABLE, asked(wanted(), words), COMMAND)
    page()
