"""One experiment several times: with other seeds, or on other folds, and what all say together."""

from dataclasses import replace

from rich.console import Console

from keras_meduda.data.files import check_writable, existing
from keras_meduda.experiment.backend import load_backend


def repeat(module, flags) -> None:
    """Trains a recipe once, or once for each of `--seeds` or `--folds`, one after the other.

    Each is an experiment of its own in `OUT/seed_N` or `OUT/fold_N`, which goes on where it
    stopped; they share the prepared images. At the end `OUT/spread.csv` and `OUT/spread.html` have
    mean and spread over all that are there. Seeds share the cases and their split.

    Args:
        module: a recipe of `keras_meduda.recipes`.
        flags: of its type `Flags`.

    Raises:
        ValueError: seeds of an experiment that trains nothing, a folder that holds folds where
            seeds are asked for or the reverse, or what `run` refuses.
        OSError: a run folder that cannot be made.
    """
    flags.check()
    check_writable(existing(flags.out), "--out")  # before every file of the data is read
    if not (flags.seeds or flags.folds):
        data = module.data(flags)
        _begin(flags)
        from keras_meduda.experiment.runner import run

        run(module.recipe(flags, data), data, flags)
        return
    from keras_meduda.evaluation.several import repeats

    kind = "seed_" if flags.seeds else "fold_"
    if others := [name for name in repeats(flags.out) if not name.startswith(kind)]:
        raise ValueError(
            f"{flags.out} holds {', '.join(others)}, of which no mean can be taken with "
            f"{kind}0 and others; choose another --out."
        )
    if flags.seeds:
        data = module.data(flags)
        for seed in flags.seeds:
            _run(module, replace(flags, seed=seed, seeds=None), data, f"seed_{seed}")
    for fold in [flags.fold] if flags.fold is not None else range(flags.folds or 0):
        one = replace(flags, fold=fold)
        data = module.data(one)
        described = f"{data.described}, fold {fold} of {flags.folds}"
        _run(module, one, replace(data, described=described), f"fold_{fold}")
    from keras_meduda.evaluation.report.runs import print_spread, write_spread
    from keras_meduda.run.distribution import is_chief, strategy

    if is_chief(strategy(flags.strategy)):
        several = repeats(flags.out)
        table = write_spread(flags.out, several)
        print_spread(table, len(several))
        print(f"mean and spread of {', '.join(several)}: {flags.out / 'spread.html'}")


def _begin(flags):
    """Loads Keras, which mistakes in the data need not wait for."""
    load_backend()
    if flags.strategy == "multiworker":
        # Collective operations are set up before TensorFlow computes anything.
        from keras_meduda.run import distribution

        distribution.strategy("multiworker")


def _run(module, flags, data, name):
    """One of the experiments, in a folder of its own and as in a process of its own."""
    _begin(flags)
    import keras

    from keras_meduda.experiment.runner import run

    keras.utils.clear_session()  # names of layers count from 1 again, and memory is given back
    store = flags.out / "prepared"
    flags = replace(flags, out=flags.out / name)
    Console().rule(name.replace("_", " "))
    recipe = module.recipe(flags, data)
    if not recipe.stages:
        raise ValueError("--seeds and --folds repeat a training; this experiment has none.")
    run(recipe, data, flags, store)
