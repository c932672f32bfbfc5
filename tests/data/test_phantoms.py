import csv

import cv2
import numpy as np
import pytest

from keras_meduda.data.phantoms import camera, drawn, write_brain, write_fundus

CASES = 30


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["pixels"] = cv2.imread(str(path.parent / row["image"]), cv2.IMREAD_UNCHANGED)
        row["labels"] = cv2.imread(str(path.parent / row["mask"]), cv2.IMREAD_UNCHANGED)
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fundus")
    write_fundus(folder, cases_per_domain=CASES, size=64)
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return read(folder / "cases.csv")


def files(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def by_domain(rows, value):
    """The values of each domain's cases, `(CASES, ...)`."""
    return [np.array([value(row) for row in rows if row["domain"] == domain])
            for domain in ("camera_a", "camera_b")]


def test_the_table_lists_exactly_the_files(folder, rows):
    assert list(rows[0])[:6] == ["case", "domain", "split", "group", "image", "mask"]
    assert len({row["case"] for row in rows}) == len(rows) == 2 * CASES
    listed = {row[column] for row in rows for column in ("image", "mask")}
    assert {str(path) for path in files(folder)} == listed | {"cases.csv"}


def test_images_are_rgb_and_masks_hold_the_declared_values(rows):
    for row in rows:
        assert row["pixels"].shape == (64, 64, 3)
        assert row["pixels"].dtype == row["labels"].dtype == "uint8"
        assert np.unique(row["labels"]).tolist() == [0, 128, 255]


def test_every_patient_is_on_one_side_of_the_split(rows):
    for domain in ("camera_a", "camera_b"):
        groups = {split: {row["group"] for row in rows
                          if (row["domain"], row["split"]) == (domain, split)}
                  for split in ("train", "test")}
        assert groups["train"] and groups["test"]
        assert not groups["train"] & groups["test"]
        assert len(groups["train"] | groups["test"]) < CASES  # some give both eyes
    assert by_domain(rows, lambda row: row["split"] == "train")[0].mean() == pytest.approx(2 / 3)


def test_the_cup_lies_inside_the_disc(rows):
    for row in rows:
        disc, cup = (row["labels"] > 0).astype("uint8"), (row["labels"] == 255).astype("uint8")
        assert not (cv2.dilate(cup, np.ones((3, 3), "uint8")) & ~disc & 1).any()
        for mask in (disc, cup):
            assert cv2.connectedComponents(mask)[0] == 2  # the background and one piece


def test_the_domains_share_their_anatomy(rows):
    disc = by_domain(rows, lambda row: (row["labels"] > 0).mean())
    cup = by_domain(rows, lambda row: (row["labels"] == 255).sum() / (row["labels"] > 0).sum())
    for share, low, high in ((disc, 0.27, 0.41), (cup, 0.25, 0.44)):
        a, b = share
        assert abs(a.mean() - b.mean()) < 3 * np.hypot(a.std(), b.std()) / np.sqrt(CASES)
        assert low < min(a.min(), b.min()) and max(a.max(), b.max()) < high


def test_the_domains_differ_in_appearance(rows):
    a, b = by_domain(rows, lambda row: row["pixels"].mean((0, 1)))
    assert (np.abs(a.mean(0) - b.mean(0)) > 2 * np.maximum(a.std(0), b.std(0))).any()


def test_cup_and_disc_are_visible_in_both_domains(rows):
    """Between vessels green grows brighter from retina to rim to cup, in nearly every image."""
    def steps(row):
        green, labels = row["pixels"][..., 1].astype(float), row["labels"]
        tissue = [np.percentile(green[labels == value], 75) for value in (0, 128, 255)]
        return np.diff(tissue) > 0

    for visible in by_domain(rows, steps):
        assert visible.mean(axis=0).min() > 0.9


def test_equal_seeds_write_equal_bytes(folder, tmp_path):
    write_fundus(tmp_path, cases_per_domain=CASES, size=64)
    assert files(tmp_path) == files(folder)


def test_another_seed_draws_other_eyes(rows, tmp_path):
    others = read(write_fundus(tmp_path, cases_per_domain=2, size=64, seed=1))
    assert not any(np.array_equal(a["labels"], b["labels"]) for a in others for b in rows)


def test_a_domain_alone_is_the_same_domain(rows, tmp_path):
    path = write_fundus(tmp_path, cases_per_domain=CASES, size=64, domains=("camera_b",))
    alone, together = read(path), rows[CASES:]
    assert [row["case"] for row in alone] == [row["case"] for row in together]
    np.testing.assert_array_equal(alone[3]["pixels"], together[3]["pixels"])


def test_size_changes_the_resolution_alone(rows, tmp_path):
    larger = read(write_fundus(tmp_path, cases_per_domain=CASES, size=128))
    for a, b in zip(rows[::7], larger[::7], strict=True):
        assert (a["labels"] > 0).mean() == pytest.approx((b["labels"] > 0).mean(), abs=0.01)
        shrunk = cv2.resize(b["pixels"], (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(shrunk.astype(float) - a["pixels"]).mean() < 8


def test_an_unknown_domain_is_named(tmp_path):
    with pytest.raises(ValueError, match="received .'camera_c'."):
        write_fundus(tmp_path, domains=("camera_a", "camera_c"))


def test_camera_repeats_with_its_seed(rows):
    photograph = rows[0]["pixels"][..., ::-1]
    seen = camera(photograph, seed=3)
    assert seen.shape == photograph.shape and seen.dtype == "uint8"
    np.testing.assert_array_equal(seen, camera(photograph, seed=3))
    assert np.abs(seen.astype(float) - camera(photograph, seed=4)).mean() > 1


def test_camera_moves_nothing():
    """A bright disc off the centre of a dark field stays where it is."""
    y, x = np.mgrid[:128, :128]
    disc = (x - 70) ** 2 + (y - 60) ** 2 < 24**2
    photograph = np.where(disc[..., None], (220, 130, 70), (90, 55, 30)).astype("uint8")
    green = cv2.GaussianBlur(camera(photograph, seed=0), (0, 0), 2)[..., 1]
    found = green > (np.median(green[disc]) + np.median(green[~disc])) / 2
    assert (found & disc).sum() / (found | disc).sum() > 0.9


@pytest.mark.parametrize("image", [np.zeros((8, 8), "uint8"), np.zeros((8, 8, 3))])
def test_camera_says_what_it_received(image):
    with pytest.raises(ValueError, match=f"received {image.dtype} of shape"):
        camera(image, seed=0)


def test_a_run_folder_keeps_what_other_settings_drew(tmp_path):
    table = drawn(write_fundus, tmp_path, 2, 32, 0)
    before = files(tmp_path), table.stat().st_mtime_ns
    assert drawn(write_fundus, tmp_path, 2, 32, 0) == table
    assert (files(tmp_path), table.stat().st_mtime_ns) == before
    others = [drawn(write_fundus, tmp_path, 2, 32, 1), drawn(write_brain, tmp_path, 1, (8, 9, 8))]
    assert len({table, *others}) == 3 and all(other.exists() for other in others)
    assert before[0].items() <= files(tmp_path).items()
