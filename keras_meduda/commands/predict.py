"""Masks of images: in the input's own size and format, from a trained run.

python scripts/predict.py --run runs/latest --images scan.png folder/ --out predictions
python scripts/predict.py --run runs/a runs/b runs/c --flips X --images scan.nii.gz   (they vote)

A DICOM folder gives a mask a series, as NIfTI and as DICOM SEG. Started again, the script goes on
where it stopped; images that cannot be read are named at the end, and all others are predicted.
"""

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from keras_meduda.commands.prediction import PredictionFlags
from keras_meduda.experiment.options import Existing


@dataclass(frozen=True, kw_only=True)
class Flags(PredictionFlags):
    """Masks of images from a trained run."""

    images: Annotated[tuple[Existing, ...], tyro.conf.arg(aliases=("--cases",))]
    """Image files, folders of images or of DICOM series, or one case table (.csv)."""
    out: Path = Path("predictions")
    """Folder of the masks, named like the images; of a table whose domains share names of cases, a
    folder for each of them."""
    overlays: bool = False
    """Also write pictures with the outlines drawn on the image, of a volume on three slices."""
    full_field: bool = True
    """Put masks of regions of interest (a table of meduda rois) back into the full picture."""
    adapt_statistics: bool = False
    """Take the batch-norm statistics of these images first, of a single run; nothing is trained."""
    confidence: bool = False
    """Also write confidence.csv: predicted Dice of each image with an interval, lowest first."""
    overwrite: bool = False
    """Replace what an earlier call has written; inputs are replaced in no case."""


@dataclass
class Job:
    """A case and where its mask goes."""

    row: tuple
    folder: Path
    name: str  # of the case, below --out
    made_from: list

    def file(self, ending, below=""):
        """The path of a file of the case: named like it, without the ending of an image."""
        from keras_meduda.data.io import stem

        path = self.folder / below / self.row.case
        return path.with_name(stem(path) + ending)


def main(flags):
    """Predicts every image and writes its mask; raises what could not be read at the end."""
    from keras_meduda.data.cache import remove_outdated
    from keras_meduda.data.files import DataError, check_writable

    if len(flags.run) > 1 and (flags.adapt_statistics or flags.confidence):
        raise ValueError("--adapt-statistics and --confidence are of a single run, not of votes.")
    if flags.confidence and (flags.adapt_statistics or flags.flips):
        raise ValueError(
            "--confidence with --adapt-statistics or --flips: the run was calibrated without them; "
            "expected --confidence alone."
        )
    flags.check()
    jobs = jobs_of(flags)
    left = jobs if flags.overwrite else unfinished(jobs, flags)
    check_outputs(jobs, left, flags)
    check_writable(flags.out, "--out")
    sure = calibration(flags.run[0]) if flags.confidence else None
    run, masks_of = flags.load()
    if flags.adapt_statistics and left:
        from keras_meduda.evaluation.target_statistics import with_target_statistics

        run = with_target_statistics(run, [job.row.image for job in jobs])  # whichever are left
    warn(left, run)
    same = set() if flags.overwrite else begun(left, flags.out)
    for job in left:
        for file in () if job.name in same else masks_of_case(job):
            file.unlink()  # an earlier call's, as was checked above
    remove_outdated(flags.out, {job.name: job.made_from for job in left})
    try:
        problems = predict_left(run, masks_of, left, sure, flags)
    except OSError as error:  # a full disk is no problem of one image
        whole = len(jobs) - len(unfinished(jobs, flags))
        raise OSError(
            f"{error}\n{whole} masks in {flags.out} are whole; once that is mended the same "
            "command goes on."
        ) from error
    failed = len({str(problem.file) for problem in problems})
    before = f", {len(jobs) - len(left)} of them from before" if len(left) < len(jobs) else ""
    print(f"{len(jobs) - failed} masks in {flags.out}{before}")
    if problems:
        print(f"{failed} of {len(jobs)} images have no mask:", file=sys.stderr)
        raise DataError(*problems)


def predict_left(run, masks_of, left, sure, flags):
    """Writes what is missing of these cases; what is wrong with those that cannot be predicted."""
    from keras_meduda.data.files import DataError, Problem
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.progress import track

    problems, rows = [], []
    predictions = predict_all(run, [job.row.image for job in left], keep_going=True)
    try:
        for job in track(left, len(left), "predicting"):
            probabilities = next(predictions)
            if isinstance(probabilities, DataError):
                problems += probabilities.problems
                continue
            try:
                if not masks_of_case(job):  # else its row alone is missing
                    write(run, job, masks_of(probabilities), flags)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                found = f"the name {job.row.case!r}, too long for a file"
                problems.append(Problem(job.row.image, found, "a shorter name of the case"))
                continue
            if sure:
                columns = zip(run.task.classes, *sure.predict(probabilities), strict=True)
                rows += [[job.name, name, *map(float, numbers)] for name, *numbers in columns]
    finally:  # Ctrl-C loses no row: masks that are there are not predicted again
        if rows:
            write_confidence(rows, flags.out / "confidence.csv", sure)
    return problems


def calibration(run_dir):
    """What a run's confidence is worth."""
    from keras_meduda.evaluation.confidence import Confidence
    from keras_meduda.run import chosen

    return Confidence.load(chosen(run_dir))


def write_confidence(rows, path, sure):
    """Predicted Dice of every case and class, beside those of earlier calls; names the lowest."""
    import pandas as pd

    from keras_meduda.data.files import replacing

    table = pd.DataFrame(rows, columns=["case", "class", "dice", "low", "high"])
    if path.exists():
        earlier = read_confidence(path)
        table = pd.concat([earlier[~earlier["case"].isin(table["case"])], table])
    table = table.sort_values("dice", kind="stable")
    first = max(3, len(table) // 10)
    table["look_first"] = [i < first for i in range(len(table))]
    with replacing(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.4f")
    print(f"{path}: predicted Dice, {100 * sure.level:.0f} % intervals. Look at these first:")
    for row in table.head(3).itertuples():
        print(f"  {row.case}, {row[2]}: {row.dice:.2f} ({row.low:.2f} to {row.high:.2f})")


def read_confidence(path):
    """The table of `write_confidence`; a case may be named NA."""
    import pandas as pd

    return pd.read_csv(path, dtype={"case": str}, keep_default_na=False)


def jobs_of(flags):
    """What is to be done, case by case."""
    from keras_meduda.data.cache import digest
    from keras_meduda.data.cases import image_states

    cases = cases_of(flags.images)
    states = [image_states(row) for row in cases.itertuples()]
    shared, settings = cases["case"].duplicated().any(), settings_of(flags)
    if flags.adapt_statistics:  # every mask depends on all images
        settings.append(digest(states))
    jobs = []
    for row, own in zip(cases.itertuples(), states, strict=True):
        folder = flags.out / row.domain if shared else flags.out
        name = Path(os.path.relpath(folder / row.case, flags.out)).as_posix()
        jobs.append(Job(row, folder, name, [settings, own]))
    return jobs


def write(run, job, masks, flags):
    """Writes the mask of one case, after all that goes with it: the mask says that all is there."""
    from keras_meduda.data.io import image_files, read_image, write_mask, write_picture

    row, values = job.row, run.task.decode(masks)
    if flags.overlays:  # whose modules take half a second to load
        from keras_meduda.evaluation.orthogonal import orthogonal_slices
        from keras_meduda.evaluation.report import outline

        image = read_image(row.image)
        if image.affine is None:
            picture = outline(image.array, masks)
        else:
            picture = orthogonal_slices(image.array, masks.any(axis=-1), spacing=image.spacing)
        write_picture(job.file(".png", "overlays"), picture)
    if flags.full_field and hasattr(row, "full_width"):
        from keras_meduda.data.roi import paste

        background = run.task.decode(masks[:1, :1] & False).item()
        write_picture(job.file(".png"), paste(values, row._asdict(), background))
        return
    if is_dicom(row):
        from keras_meduda.data import dicom

        series = image_files(row.image)[0]
        dicom.write_segmentation(job.file(".dcm"), masks, series, run.task.classes)
    write_mask(job.file(".png"), values, like=row.image)


def cases_of(paths):
    """The case table of a CSV file, or of image files and folders of such."""
    from keras_meduda.data import dicom
    from keras_meduda.data.cases import case_table, read_cases
    from keras_meduda.data.files import visible_files
    from keras_meduda.data.io import FORMATS, stem

    if len(paths) == 1 and paths[0].suffix.lower() == ".csv":
        return read_cases(paths[0])
    rows = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder.")
        files = visible_files(path, deep=False) if path.is_dir() else [path]
        found = [
            {"case": stem(file), "image": str(file)}
            for file in files
            if file.name.lower().endswith(FORMATS)
        ]
        if path.is_dir():
            series = dicom.series_in(path)
            found += [{"case": name, "image": str(at)} for name, at in series.items()]
        elif not found and dicom.is_dicom(path):
            found = [{"case": path.stem, "image": str(path)}]
        if not found:
            raise FileNotFoundError(
                f"{path}: no image files found (looked for {', '.join(FORMATS)} and DICOM)."
            )
        rows += found
    return case_table(rows)


def is_dicom(row):
    """Whether a case is a DICOM series."""
    from keras_meduda.data import dicom
    from keras_meduda.data.io import FORMATS, image_files

    file = image_files(row.image)[0]
    return not file.lower().endswith(FORMATS) and dicom.is_dicom(file)


def paths_of(job, flags):
    """What is written of a case; the mask's ending may be another."""
    paths = [job.file(".png")]
    if flags.overlays:
        paths.append(job.file(".png", "overlays"))
    if is_dicom(job.row):
        paths.append(job.file(".dcm"))
    return paths


def settings_of(flags):
    """What a mask depends on beside its image."""
    from keras_meduda.data.files import state_of
    from keras_meduda.run import chosen

    files = [chosen(path) / name for path in flags.run for name in ("config.json", "network.keras")]
    names = "flips", "postprocess", "precision", "full_field", "overlays", "adapt_statistics"
    names += "engine", "confidence"
    return [
        [state_of(file) for file in files if file.exists()],
        *(getattr(flags, name) for name in names),
    ]


def begun(jobs, out):
    """Names of the cases that an earlier call has begun, of this image and with these settings."""
    from keras_meduda.data.cache import digest, recorded

    known = recorded(out)
    return {job.name for job in jobs if known.get(job.name) == digest(job.made_from)}


def unfinished(jobs, flags):
    """Those without a mask or a row, or made of another image or with other settings."""
    done, table = begun(jobs, flags.out), flags.out / "confidence.csv"
    if flags.confidence:
        done &= set(read_confidence(table)["case"]) if table.exists() else set()
    return [job for job in jobs if job.name not in done or not masks_of_case(job)]


def masks_of_case(job):
    """The masks of that name that are there, whatever their ending."""
    from keras_meduda.data.io import FORMATS

    # Path.exists raises where a name is too long for a file.
    return [file for file in map(job.file, FORMATS) if os.path.exists(file)]


def warn(jobs, run):
    """What the headers of the images let doubt, a line a cause."""
    from keras_meduda.data.checks import header_warnings
    from keras_meduda.data.files import by_cause

    problems, spacing = [], run.preprocessing.own_spacing
    for job in jobs:
        try:
            problems += header_warnings(job.row.image, spacing)
        except Exception:  # whoever predicts it says what is wrong
            continue
    for line in by_cause(problems):
        print(line, file=sys.stderr)


def check_outputs(jobs, left, flags):
    """Masks are named like the cases: none may take another file's place, or leave the folder."""
    from collections import Counter

    from keras_meduda.data.io import image_files, mask_files, stem

    def place(path):  # whatever the ending
        return Path(path).parent.resolve() / stem(path)

    places = Counter(place(path) for job in jobs for path in paths_of(job, flags))
    if outside := [p for p in places if flags.out.resolve() not in p.parents]:
        raise ValueError(
            f"--out {flags.out}: {len(outside)} cases have names that lead out of it, such as to "
            f"{outside[0]}; expected names without '..' or a leading '/'."
        )
    if alike := [p for p, count in places.items() if count > 1]:
        raise ValueError(
            f"{len(alike)} names of cases differ in their ending alone, such as {alike[0].name}; "
            "expected one mask a name."
        )
    read = {}
    for row in (job.row for job in jobs):
        files = image_files(row.image) + [file for _, file in mask_files(row.mask)]
        read |= {place(file): file for file in files if file}
    if twice := [read[p] for p in places if p in read]:
        raise ValueError(
            f"--out: {len(twice)} files would be written beside or over an input of the same name, "
            f"such as {twice[0]}; expected another folder."
        )
    same = begun(left, flags.out)
    new = {place(path) for job in left if job.name not in same for path in paths_of(job, flags)}
    folders = {p.parent for p in new if p.parent.is_dir()}
    there = [file for f in folders for file in sorted(f.iterdir()) if place(file) in new]
    if there and not flags.overwrite:
        raise ValueError(
            f"--out {flags.out}: {len(there)} files of these names are there, such as {there[0]}; "
            "expected another folder, or --overwrite."
        )
