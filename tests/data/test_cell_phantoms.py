"""Drawn nuclei: equal seeds, equal files; what differs between the two microscopes."""

import pandas as pd

import keras_meduda as km
from keras_meduda.data.io import read_image, read_mask
from keras_meduda.data.phantoms import write_cells

TASK = km.Task(("nucleus",), values={"nucleus": (255,)})


def test_equal_seeds_write_equal_bytes(tmp_path):
    written = []
    for name in ("a", "b"):
        write_cells(tmp_path / name, cases_per_domain=3, size=48, seed=1)
        files = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        written.append({file.relative_to(tmp_path / name): file.read_bytes() for file in files})
    assert written[0] == written[1] and len(written[0]) == 13


def test_the_second_microscope_shows_more_nuclei_with_less_contrast(tmp_path):
    cases = km.read_cases(write_cells(tmp_path, cases_per_domain=12, size=96))
    rows = []
    for case in cases.itertuples():
        image, nuclei = read_image(case.image).array.mean(axis=-1), read_mask(case.mask, TASK) > 0
        inside, outside = image[nuclei].mean(), image[~nuclei].mean()
        rows.append((case.domain, nuclei.mean(), inside - outside, outside))
    means = pd.DataFrame(rows, columns=["domain", "share", "contrast", "dark"]).groupby("domain")
    first, second = means.mean().to_numpy()
    assert 0.05 < first[0] < 0.10 and 0.20 < second[0] < 0.28
    assert first[1] > 1.5 * second[1] and first[2] < second[2]
    assert list(cases.groupby("domain")["split"].agg(lambda s: (s == "train").sum())) == [8, 8]
