"""A run that goes on past the number of steps that it was made for."""

from pathlib import Path

import keras

_SCHEDULES = ("decay_steps", "boundaries", "warmup_steps", "first_decay_steps")


def follows_steps(setting: str) -> bool:
    """Whether a setting, named as `run.folder` flattens them, follows the number of steps.

    Example:
        >>> follows_steps("optimizer.learning_rate.config.decay_steps"), follows_steps("seed")
        (True, False)
    """
    named = setting.rpartition(".")[2]
    return setting in ("steps", "validate_every") or (
        ".learning_rate." in setting and named in _SCHEDULES
    )


def extension(folder: Path, old: dict, config: dict) -> dict:
    """What `config.json` keeps of an extension, and the log says: schedules are those of all steps.

    Args:
        folder: of the run.
        old: its settings so far.
        config: those with more steps.

    Returns:
        `from_steps`, `to_steps`, `at_step` (the newest checkpoint), and `learning_rate` at that
        step, `before` and `after`, None where the schedule cannot be read.
    """
    files = sorted((folder / "checkpoints").glob("step-*.npz"))
    step = int(files[-1].stem.removeprefix("step-")) if files else 0
    rates = {"before": _rate(old, step), "after": _rate(config, step)}
    return {
        "from_steps": old["steps"], "to_steps": config["steps"], "at_step": step,
        "learning_rate": rates,
    }  # fmt: skip


def in_words(entry: dict) -> str:
    """An extension as a sentence for the log."""
    before, after = entry["learning_rate"].values()
    rate = "."
    if None not in (before, after):
        goes = f"goes on at {after:g}" if before == after else f"goes from {before:g} to {after:g}"
        rate = f": the learning rate {goes} at step {entry['at_step']:,}."
    return (
        f"extended from {entry['from_steps']:,} to {entry['to_steps']:,} steps. All schedules are "
        f"now those of {entry['to_steps']:,} steps{rate}"
    )


def _rate(config, step):
    """The learning rate of a run's settings at a step."""
    rate = config["optimizer"].get("learning_rate")
    if not isinstance(rate, dict):
        return rate
    try:
        return float(keras.optimizers.schedules.deserialize(rate)(step))
    except (TypeError, ValueError):  # a schedule of someone's own
        return None
