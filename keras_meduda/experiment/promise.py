"""What Dice to expect of new images, said at the end of an experiment on two domains."""

import pandas as pd

from keras_meduda.data.io import replacing
from keras_meduda.evaluation.confidence import FEWEST, calibrate, promised

TABLE = "predicted_dice.csv"
# Mean and largest error of a data set's predicted Dice over the shifts of pictures in
# benchmarks/shifts.md, from ImageNet's weights; a test compares them with its table.
ERROR, LARGEST_ERROR = 0.06, 0.19


def promise(data, options, runs) -> str | None:
    """Calibrates runs on held-out source cases and predicts the Dice of the target's images.

    The predictions of the first run, with their intervals, are written to
    `OUT/evaluation/predicted_dice.csv`; no label of the target is read.

    Args:
        data: with held-out cases that have masks: under `"source, test"`, or `"test"` of an
            experiment on one domain.
        options: the run folder.
        runs: each keeps its calibration in its folder, for `meduda predict --confidence`.

    Returns:
        What is expected, or why nothing is, for a reader; `None` where nothing was held out, or
        too little of one domain.
    """
    path = options.out / "evaluation" / TABLE
    path.unlink(missing_ok=True)  # of an earlier network
    heading = next((name for name in ("source, test", "test") if name in data.scored), None)
    if heading is None:
        return None
    held = data.scored[heading]
    if (count := held["group"].nunique()) < FEWEST:
        return None if heading == "test" else (
            f"none, as {count} patients of the source are held out with masks; {FEWEST} are needed "
            "to say how far a prediction can be off."
        )
    run, confidence = [(run, calibrate(run, held)) for run in runs][0]
    error = sum(confidence.error) / len(confidence.error)
    measured = f"On held-out cases such predictions were off by {error:.3f} on average."
    tested = next(iter(data.tests.values()))
    target = tested if len(tested) else data.parts.get("target", tested)
    if target is data.tests[heading] or not len(target):
        return f"meduda predict --confidence predicts the Dice of new images. {measured}"
    table = promised(run, confidence, target["image"], target["case"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.4f")
    means = table.groupby("class", sort=False)[["dice", "low", "high"]].mean()
    classes = ", ".join(
        f"{name} {row.dice:.2f} ({row.low:.2f} to {row.high:.2f})"
        for name, row in zip(means.index, means.itertuples(), strict=True)
    )
    said = (
        f"{classes}: means over {len(target)} target images and of their "
        f"{100 * confidence.level:.0f} % intervals, without a label of the target; each image "
        f"stands in {path}. {measured}"
    )
    if len(run.preprocessing.size) == 3:
        return f"{said} How far off they are on the targets of volumes has not been measured."
    return (
        f"{said} On the pictures of this library's benchmark such means were off by {ERROR:.2f} "
        f"on average, at most by {LARGEST_ERROR:.2f}."
    )


def predicted(options) -> pd.DataFrame | None:
    """The table that `promise` wrote: `case, class, dice, low, high`; `None` if there is none."""
    path = options.out / "evaluation" / TABLE
    return pd.read_csv(path, dtype={"case": str}) if path.exists() else None
