"""Masks of images: in the input's own size and format, from a trained run.

python scripts/predict.py --run runs/latest --images scan.png folder/ --out predictions
python scripts/predict.py --run runs/a runs/b runs/c --flips X --images scan.nii.gz   (they vote)
"""

from dataclasses import dataclass
from pathlib import Path

from keras_meduda.commands.prediction import PredictionFlags


@dataclass(kw_only=True)
class Flags(PredictionFlags):
    """Masks of images from a trained run."""

    images: tuple[Path, ...]
    """Image files, folders of images, or one case table (.csv)."""
    out: Path = Path("predictions")
    """Folder of the masks, named like the images; of a table whose domains share names of cases, a
    folder for each of them."""
    overlays: bool = False
    """Also write pictures with the outlines drawn on the image, of a volume on three slices."""
    full_field: bool = True
    """Put masks of regions of interest (a table of prepare_rois.py) back into the full picture."""
    overwrite: bool = False
    """Replace what an earlier call has written; inputs are replaced in no case."""


def main(flags):
    """Predicts every image and writes its mask."""
    from keras_meduda.data.io import read_image, write_mask, write_picture
    from keras_meduda.data.roi import paste
    from keras_meduda.evaluation.orthogonal import orthogonal_slices
    from keras_meduda.evaluation.predict import predict_all
    from keras_meduda.evaluation.report import outline
    from keras_meduda.progress import track

    run, masks_of = flags.load()
    cases = cases_of(flags.images)
    rows = list(cases.itertuples())
    shared = cases["case"].duplicated().any()
    folders = [flags.out / row.domain if shared else flags.out for row in rows]
    written = [folder / row.case for row, folder in zip(rows, folders, strict=True)]
    if flags.overlays:
        written += [path.parent / "overlays" / path.name for path in written]
    check_outputs(rows, written, flags)
    predictions = predict_all(run, [row.image for row in rows])
    for row, out in track(zip(rows, folders, strict=True), len(rows), "predicting"):
        masks = masks_of(next(predictions))
        values = run.task.decode(masks)
        if flags.full_field and hasattr(row, "full_width"):
            full = paste(values, row._asdict(), run.task.background[0])
            write_picture(out / f"{row.case}.png", full)
        else:
            write_mask(out / row.case, values, like=row.image)
        if flags.overlays:
            image = read_image(row.image)
            if image.affine is None:
                picture = outline(image.array, masks)
            else:
                picture = orthogonal_slices(image.array, masks.any(axis=-1), spacing=image.spacing)
            write_picture(out / "overlays" / f"{row.case}.png", picture)
    print(f"{len(rows)} masks in {flags.out}")


def cases_of(paths):
    """The case table of a CSV file, or of image files and folders of such."""
    from keras_meduda.data.cases import case_table, read_cases
    from keras_meduda.data.io import FORMATS, DataError, read_image, stem

    if len(paths) == 1 and paths[0].suffix == ".csv":
        return read_cases(paths[0])
    files = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder.")
        found = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [file for file in found if file.name.lower().endswith(FORMATS)]
    if files:
        return case_table([{"case": stem(file), "image": str(file)} for file in files])
    for path in paths:
        try:
            read_image(path)
        except DataError as error:
            if error.problems[0].found == "DICOM":  # then the message says how to convert it
                raise
    raise FileNotFoundError(
        f"{', '.join(map(str, paths))}: no image files found (looked for {', '.join(FORMATS)})."
    )


def check_outputs(rows, written, flags):
    """Masks are named like the cases: none may take another file's place, or leave the folder."""
    from collections import Counter

    from keras_meduda.data.io import image_files, mask_files, stem

    def place(path):  # whatever the ending
        return Path(path).parent.resolve() / stem(path)

    places = Counter(map(place, written))
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
    for row in rows:
        files = image_files(row.image) + [file for _, file in mask_files(row.mask)]
        read |= {place(file): file for file in files if file}
    if twice := [read[place(path)] for path in written if place(path) in read]:
        raise ValueError(
            f"--out: {len(twice)} files would be written beside or over an input of the same name, "
            f"such as {twice[0]}; expected another folder."
        )
    folders = {p.parent for p in places if p.parent.is_dir()}
    there = [file for f in folders for file in sorted(f.iterdir()) if place(file) in places]
    if there and not flags.overwrite:
        raise ValueError(
            f"--out {flags.out}: {len(there)} files of these names are there, such as {there[0]}; "
            "expected another folder, or --overwrite."
        )
