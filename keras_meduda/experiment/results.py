"""The one end of every experiment: scores of each network, one table, one report."""

import time
from dataclasses import replace

from rich.console import Console

from keras_meduda.data.cases import are_volumes
from keras_meduda.data.parts import NAME as KEPT
from keras_meduda.data.parts import seen
from keras_meduda.evaluation.calibration import largest_entropy
from keras_meduda.evaluation.label_free import label_free, reference_shares, suspicious
from keras_meduda.evaluation.orthogonal import write_orthogonal_slices
from keras_meduda.evaluation.report import (
    about_run,
    about_session,
    compare,
    print_comparison,
    print_scores,
    score,
    source_alarms,
    write_evaluation,
    write_label_free_report,
    write_report,
)
from keras_meduda.evaluation.report.tables import main_of
from keras_meduda.evaluation.teacher import evaluate_teacher
from keras_meduda.experiment.few_labels import PART, few_labels
from keras_meduda.experiment.guarding import guard
from keras_meduda.experiment.promise import TABLE, predicted, promise
from keras_meduda.run.decided import FEW, GUARDED, forget
from keras_meduda.run.model_card import write_model_card

FIRST = 3  # cases with the lowest predicted Dice, to look at first


def evaluate_runs(recipe, data, options, runs, targets, styles, began) -> None:
    """Scores every run where there are masks, prints one table, and writes `report.html`.

    Args:
        recipe: what was trained.
        data: on which cases.
        options: the run folder.
        runs: by name.
        targets: the teacher's, where there was one; it is scored as well.
        styles: `Styles` of the experiment.
        began: `time.perf_counter()` when the experiment began.
    """
    runs = {**runs, recipe.deployed: recipe.deploy(runs[recipe.deployed])}
    started = time.perf_counter()
    decision, decided = guard(data, options, runs, styles), ""
    adapts = {"source_only", "adapted"} <= set(runs) and "target" in data.parts
    recipe = replace(recipe, facts={**recipe.facts, **styles.facts})
    if decision:
        cost = f"{time.perf_counter() - started:.0f} s"
        recipe = replace(recipe, facts={**recipe.facts, "Decision took": cost})
        _say(f"the decision took {cost}")
        runs = _with(runs, GUARDED, decision.run)
        decided = (
            f"How far to go, decided without target labels: {100 * decision.a:.0f} % of the way; "
            f"{decision.reason[0].lower()}{decision.reason[1:]}"
        )
    elif adapts:
        forget(options.out, GUARDED)
        decided = (
            "None: no labelled case that did not train is at hand to judge by; --judge names some. "
            "Look at the pictures before the adapted network is used."
        )
    if PART in data.parts:
        best = decision.run if decision else runs[recipe.deployed]
        fitted, reason = few_labels(recipe, data, options, best, runs[recipe.deployed])
        decided = f"{decided} {reason}".strip()
        if fitted:
            runs = _with(runs, FEW, fitted)
    elif adapts:
        forget(options.out, FEW)
    promising = [runs[name] for name in (FEW, GUARDED, recipe.deployed) if name in runs]
    expected = promise(data, options, promising)
    table = predicted(options)
    if table is not None and decided:
        lowest = table.groupby("case", sort=False)["dice"].mean().nsmallest(FIRST).index
        decided += f" Look first at {', '.join(lowest)}: their predicted Dice is lowest."
    said = {"Decision": decided, "Predicted Dice": expected}
    said = {term: text for term, text in said.items() if text}
    page = {
        "path": options.out / "report.html",
        "runs": runs,
        "trainings": {name.replace("_", " "): runs[name].path for name in runs},
        "data": data.table,
        "decided": said,
        "predicted": table,
        "facts": {
            "Data": data.described,
            **_target_labels(recipe, data),
            **recipe.facts,
            **about_run(runs[recipe.deployed]),
            **_taken(options, runs),
            **about_session(began),
        },
    }
    if next(iter(data.tests)) in data.scored:
        _with_labels(recipe, data, options, runs, targets, page)
    else:
        _without_labels(recipe, data, options, runs, page)
    for term, text in said.items():
        _say(f"{term}: {text}")
    if recipe.stages:  # else the folder holds an evaluation alone
        write_model_card(options.out)
    _say(f"report: {page['path']}")


def _with_labels(recipe, data, options, runs, targets, page):
    main, *others = data.scored
    if data.prompted is None or "teacher" in runs:  # a network, which is scored as such
        targets = None
    alone = len(runs) == 1 and targets is None
    parts, calibration, first, notes = {}, {}, [], []
    deployed, tables = recipe.deployed, {}
    for heading, cases in data.scored.items():
        scored = runs if heading == main else _without_oracle(runs)
        frames = {}
        if targets is not None:
            frames["teacher"] = evaluate_teacher(targets, cases, data.task)
        for name, run in scored.items():
            first += seen(cases, run.path, name.replace("_", " "))
            masks = recipe.masks if name == deployed else None
            frames[name], counts = score(run, cases, data.task, masks=masks)
            if heading == main:
                calibration[name] = counts
        for name, frame in frames.items():
            folder = _plain(heading) if alone else _folder(name, heading, main)
            write_evaluation(options.out, folder, frame)
            tables[folder.replace("_", " ")] = f"evaluation/{folder}/cases.csv"
        parts[heading] = frames
        where = (
            options.out
            / "evaluation"
            / (_plain(heading) if alone else _folder(deployed, heading, main))
        )
        notes += recipe.notes(runs[deployed], cases, frames[deployed], where)
        if are_volumes(cases):
            shown = main_of(scored)
            files = write_orthogonal_slices(
                where / "slices", scored[shown], cases, frames[shown], recipe.masks
            )
            _say(f"slices: {files[0].parent}")
    comparison = None
    if {"source_only", "adapted"} <= set(parts[main]):
        comparison = compare(options.out, parts[main])
        heading = _named(main, data.scored[main])
        print_comparison(heading, comparison, parts[main]["adapted"], data.task.unit)
    else:
        for heading, frames in parts.items():
            print_scores(_named(heading, data.scored[heading]), frames, data.task.unit)
    for note in notes:
        _say(note)
    if "source, test" in parts:
        shares = reference_shares(data.scored["source, test"], data.task)
        first += source_alarms(_without_oracle(parts["source, test"]), shares)
    _look_first(first)
    write_report(
        title=recipe.title,
        parts={_named(heading, data.scored[heading]): of for heading, of in parts.items()},
        cases=data.scored[main],
        task=data.task,
        calibration=calibration,
        comparison=comparison,
        notes=tuple(notes),
        masks=recipe.masks,
        first=tuple(first),
        tables=tables | _kept(options) | _predicted(page),
        targets=targets,
        **page,
    )


def _without_labels(recipe, data, options, runs, page):
    tested = next(iter(data.tests.values()))
    missing = "labels in its test part" if len(tested) else "test cases"
    tested = tested if len(tested) else data.parts["target"]
    # The deployed one, and what it began with.
    names = [name for name in runs if name not in ("oracle", *_superseded(runs))][-2:]
    described = {name: runs[name] for name in names}
    frame = label_free(described, tested)
    shares = None
    if "source" in data.parts:
        shares = reference_shares(data.parts["source"], data.task)
    held, source, first, tables = data.scored.get("source, test"), {}, [], _kept(options)
    if held is not None:  # a source that was not learnt is told from a target that is hard
        for name, run in described.items():
            masks = recipe.masks if name == recipe.deployed else None
            source[name], _ = score(run, held, data.task, masks=masks)
            folder = f"{name}_on_source"
            write_evaluation(options.out, folder, source[name])
            tables[folder.replace("_", " ")] = f"evaluation/{folder}/cases.csv"
        print_scores(_named("source, test", held), source, data.task.unit)
        first = source_alarms(source, reference_shares(held, data.task))
    write_label_free_report(
        title=f"{recipe.title}, without labels",
        frame=frame,
        cases=tested,
        source_shares=shares,
        source=source or None,
        first=tuple(first),
        tables=tables | _predicted(page),
        **page | {"runs": described},
    )
    _say(f"The target has no {missing}, so no accuracy can be given.")
    task = runs[recipe.deployed].task
    most = largest_entropy(task.channels, task.overlapping)
    _look_first([*first, *suspicious(frame, shares, most)])


def _with(runs, name, run):
    """Runs with one more, which the page describes: the last but the oracle."""
    oracle = {key: runs[key] for key in ("oracle",) if key in runs}
    return {**_without_oracle(runs), name: run, **oracle}


def _superseded(runs):
    """Networks between source only and the one that was decided for."""
    between = [name for name in ("adapted", GUARDED, FEW) if name in runs]
    return between[:-1]


def _taken(options, runs):
    """Where the network that was decided for lies, and who takes it."""
    chosen = [runs[name].path for name in (FEW, GUARDED) if name in runs]
    taken = f"which every command takes of {options.out}"
    return {"Deployed": f"{chosen[0]}, {taken}"} if chosen else {}


def _look_first(lines):
    for line in lines:
        _say(f"look first: {line}")


def _kept(options):
    """The table of all cases, where this experiment has trained."""
    return {"all cases and their parts": KEPT} if (options.out / KEPT).exists() else {}


def _predicted(page):
    """The table of predicted Dice, where there is one."""
    return {} if page["predicted"] is None else {"predicted Dice": f"evaluation/{TABLE}"}


def _named(heading, cases):
    """A heading with the domains that it is about."""
    said = (heading, *heading.split(", "))
    domains = [name for name in cases["domain"].unique() if name not in said]
    return f"{heading}: {', '.join(domains)}" if domains and len(domains) < 5 else heading


def _without_oracle(runs):
    return {name: run for name, run in runs.items() if name != "oracle"}


def _folder(name, heading, main):
    """`adapted` on what the report is about, `adapted_on_source` elsewhere."""
    return name if heading == main else f"{name}_on_{_plain(heading)}"


def _plain(heading):
    return heading.removesuffix(", test").replace(" ", "_")


def _target_labels(recipe, data):
    """What labels of the target were read for, where there is a target."""
    if "target" not in data.parts:
        return {}
    names = [n.replace("_", " ") for n in (*recipe.given, *recipe.stages) if n != "oracle"]
    said = f"not read in training or selection of {' and '.join(names)}."
    if "oracle" in recipe.stages:
        said += " The oracle is trained on them: it is the upper end of the comparison, no more."
    if PART in data.parts:
        said += f" {len(data.parts[PART])} labelled target cases end the adaptation."
    return {"Target labels": f"Labels of the target were {said}"}


def _say(text):
    """One line that a terminal may break but we do not: paths stay whole when copied."""
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
