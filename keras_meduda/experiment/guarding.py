"""How far an adaptation should go, decided without target labels at the end of an experiment."""

import json
import shutil
from dataclasses import replace

from keras_meduda.data.cases import write_cases
from keras_meduda.data.io import replacing
from keras_meduda.data.parts import NAME as KEPT
from keras_meduda.data.parts import read_parts, write_parts
from keras_meduda.data.pipeline import prepare
from keras_meduda.evaluation.guard import Decision, decide
from keras_meduda.experiment.shares import NAME as SHARES
from keras_meduda.run.decided import GUARDED


def guard(data, options, runs, styles) -> Decision | None:
    """Decides between source only and adapted, and keeps the network that it chooses.

    The network lies in `OUT/guarded`, a run folder; `decision.json` there has the scores.

    Args:
        data: with held-out source cases that have masks, under `"source, test"`.
        options: run folder and seed.
        runs: by name, `"source_only"` and `"adapted"` among them.
        styles: `Styles` of the experiment, whose way to make twins is taken.

    Returns:
        The decision, whose run is that of the new folder. `None` where there is nothing to decide,
        or no held-out source case to decide by.
    """
    held = data.scored.get("source, test")
    if held is None or not {"source_only", "adapted"} <= set(runs) or "target" not in data.parts:
        return None
    store, first = styles.folder, runs["source_only"]
    target = prepare(data.parts["target"], data.task, first.preprocessing, store, labels=False)
    source = prepare(held, data.task, first.preprocessing, store, labels=True)
    source = styles.each_way(first, source, target)
    steps = 5 if options.smoke else 100
    decision = decide(first, runs["adapted"], source, target, held["group"], steps, options.seed)
    scores = json.loads(decision.scores.to_json(orient="records"))
    written = {"a": decision.a, "reason": decision.reason, "scores": scores}
    run = kept(decision.run, options.out / GUARDED, runs["adapted"], written)
    return replace(decision, run=run)


def kept(run, folder, trained, decision, learnt=None, tests=None):
    """A run in a run folder of its own, with `decision.json` beside the network.

    The network is written last: by it `chosen` knows that the folder is whole.

    Args:
        run: whose network is kept.
        folder: the run folder.
        trained: the run that was trained for it; its settings and its cases are copied.
        decision: what was decided, as words and numbers.
        learnt: the cases that have trained it since, by part. Default none.
        tests: with `learnt`, the cases that are kept back for tests, by heading.
    """
    with replacing(folder / "config.json") as unfinished:
        unfinished.write_text((trained.path / "config.json").read_text())
    if learnt:
        write_parts(folder, learnt, tests, start=trained.path)
    elif (cases := read_parts(trained.path)) is not None:
        write_cases(cases, folder / KEPT)
    if (trained.path / SHARES).exists():
        with replacing(folder / SHARES) as unfinished:
            shutil.copy(trained.path / SHARES, unfinished)
    with replacing(folder / "decision.json") as unfinished:
        unfinished.write_text(json.dumps(decision, indent=1))
    with replacing(folder / "network.keras") as unfinished:
        run.network.save(unfinished)
    return replace(run, path=folder)
