"""What a handful of labelled target cases is worth, decided on patients who were left out."""

from dataclasses import replace

import keras
import numpy as np

from keras_meduda.data.pipeline import Batches, prepare
from keras_meduda.evaluation.adjust import few
from keras_meduda.evaluation.confidence import dice, labelled_inputs
from keras_meduda.evaluation.guard import paired_error
from keras_meduda.experiment.guarding import kept
from keras_meduda.methods import Supervised
from keras_meduda.methods.finetuning import train_only
from keras_meduda.progress import track
from keras_meduda.run.decided import FEW, forget
from keras_meduda.run.scope import setup

PART = "few_target"
FOLDS, LEARNING_RATE = 5, 2e-4
STEPS = (25, 50, 100)  # updates after which a left-out patient is looked at


def few_labels(recipe, data, options, run, trained):
    """Fits a run to a few labelled target cases by what helps patients who were left out.

    Two ways are tried: a temperature and a bias for each class (`evaluation.adjust.few`), and
    fine-tuning of the decoder. Patients are left out in at most five folds. Their Dice decides
    which way is taken, and after how many updates fine-tuning stops. The result is kept in
    `OUT/few`, a run folder, if its gain over patients is above one standard error: the best of
    several ways gains a little by chance.

    Args:
        recipe: batch size and augmentation.
        data: with the part `"few_target"`.
        options: run folder and seed.
        run: the run that is fitted.
        trained: the run that was trained for it, whose `config.json` is copied.

    Returns:
        The run, or `None` where the labels do not help; and the reason, for a reader.
    """
    cases = data.parts[PART]
    adjusted = few(run, cases, data.tests.get("target, test"))
    folder = options.out / "prepared"
    prepared = prepare(cases, data.task, run.preprocessing, folder, labels=True)
    steps = (2, 4) if options.smoke else STEPS
    tuner = _Tuner(recipe, run, options.seed)
    tuned = _left_out(tuner, cases, prepared, steps, options.seed)
    ways = np.column_stack([adjusted.after, tuned])  # Dice by patient
    means, way = ways.mean(axis=0), int(ways.mean(axis=0).argmax())
    gains, updates = ways[:, way] - adjusted.before, steps[int(tuned.mean(axis=0).argmax())]
    gain, error = gains.mean(), paired_error(gains, sorted(set(cases["group"])))
    figures = (
        f"Dice of a patient left out: {adjusted.before.mean():.3f} as it is, {means[0]:.3f} with a "
        f"temperature and a bias for each class, {means[1:].max():.3f} with the decoder fine-tuned "
        f"for {updates} updates. The better one is the best of {len(means)} on these patients, so "
        "its figure is a little too good."
    )
    count = f"{len(cases)} labelled target cases of {cases['group'].nunique()} patients"
    if gain <= error:
        forget(options.out, FEW)  # of an earlier table
        because = f"the gain of {gain:.3f} is not above its standard error, {error:.3f}"
        return None, f"{count} are not used: {because}. {figures}"
    if way:
        (chosen,), what = tuner.after(prepared, (updates,)), "fine-tune the decoder"
    else:
        chosen, what = adjusted.run, "set a temperature and a bias for each class"
    reason = f"{count} {what}. {figures}"
    decision, learnt = {"reason": reason}, {PART: cases}
    return kept(chosen, options.out / FEW, trained, decision, learnt, data.tests), reason


def _left_out(tuner, cases, prepared, steps, seed):
    """Dice of each patient, sorted, after so many updates without him, `(patients, steps)`."""
    run, groups = tuner.run, np.asarray(cases["group"])
    patients = np.random.default_rng(seed).permutation(sorted(set(groups)))
    folds = np.array_split(patients, min(FOLDS, len(patients)))
    inputs = [
        (run.preprocessing.normalised(stored), reference)
        for _, stored, reference in labelled_inputs(run, cases, "reading few labels")
    ]
    found = {}
    for fold in track(folds, len(folds), "leaving patients out"):
        out = np.isin(groups, fold)
        kept = prepared.only(np.flatnonzero(~out))
        for number, tuned in enumerate(tuner.after(kept, steps)):
            for i in np.flatnonzero(out):
                x, reference = inputs[i]
                mask = run.task.masks(tuned.probabilities(x[None])[0])
                score = dice(mask, reference).mean()
                found.setdefault((groups[i], number), []).append(score)
    return np.array([[np.mean(found[p, n]) for n in range(len(steps))] for p in sorted(patients)])


class _Tuner:
    """Fine-tunes the decoder of one copy of a network, from the same weights each time."""

    def __init__(self, recipe, run, seed):
        self.seed, self.batch_size = seed, recipe.batch_size
        self.views = {k: v for k, v in recipe.batches.items() if k in ("geometry", "patch")}
        with setup(seed=seed):
            network = keras.models.clone_model(run.network)
            network.set_weights(run.network.get_weights())
            train_only(network, "decoder", freeze_batch_norm=True)
            self.method = Supervised(network, run.task.overlapping)
            self.method.compile(keras.optimizers.Adam(LEARNING_RATE), jit_compile=False)
        self.method.build()
        self.start = [v.numpy() for v in self._variables()]
        self.run = replace(run, network=network)

    def after(self, prepared, steps):
        """Yields the run after each of these numbers of updates; the next one overwrites it."""
        for variable, value in zip(self._variables(), self.start, strict=True):
            variable.assign(value)
        size = min(self.batch_size, len(prepared.images))
        batches, done = Batches(size, self.seed, source=prepared, **self.views), 0
        for count in steps:
            dataset = batches.from_step(done)
            self.method.fit(dataset, steps_per_epoch=count - done, shuffle=False, verbose=0)
            done = count
            yield self.run

    def _variables(self):
        return [*self.method.variables, *self.method.optimizer.variables]
