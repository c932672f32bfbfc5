import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from keras_meduda.data.cases import case_table
from keras_meduda.data.io import DataError, read_image, write_picture
from keras_meduda.data.roi import read_boxes
from keras_meduda.task import Task
from keras_meduda.teachers.boxes import (
    COLUMNS,
    as_rgb,
    boxes_by_case,
    boxes_from_masks,
    boxes_of,
    write_boxes,
    write_yolo,
    yolo_label,
)

TASK = Task(("tumour",), overlapping=True, values={"tumour": (255,)})


def block(x0, y0, x1, y1, shape=(40, 60)):
    mask = np.zeros(shape, "uint8")
    mask[y0:y1, x0:x1] = 255
    return mask


def write_cases(folder, masks):
    rows = []
    for i, mask in enumerate(masks):
        image, path = folder / f"{i}.png", folder / f"mask_{i}.png"
        write_picture(image, np.tile(np.arange(mask.shape[1], dtype="uint8"), (len(mask), 1)))
        write_picture(path, mask)
        rows.append({"case": f"c{i}", "image": image, "mask": path})
    return case_table(rows)


def table(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


@pytest.mark.parametrize("edges", [(3, 5, 9, 20), (0, 0, 60, 40), (59, 39, 60, 40)])
def test_the_box_of_a_block_is_the_block(edges):
    assert boxes_of(block(*edges)).tolist() == [list(edges)]


def test_every_piece_has_a_box_and_specks_only_where_there_is_nothing_else():
    two = block(3, 5, 9, 20) | block(20, 5, 50, 9)
    assert boxes_of(two).tolist() == [[20, 5, 50, 9], [3, 5, 9, 20]]
    speck = block(0, 0, 2, 2)
    assert boxes_of(two | speck).tolist() == boxes_of(two).tolist()
    assert boxes_of(speck).tolist() == [[0, 0, 2, 2]]
    assert boxes_of(np.eye(12)).tolist() == [[0, 0, 12, 12]]  # diagonal neighbours touch


def test_a_yolo_label_leads_back_to_its_box():
    box, shape = (3, 5, 10, 21), (37, 53)
    _, xc, yc, w, h = map(float, yolo_label([box], shape).split())
    back = [(xc - w / 2) * 53, (yc - h / 2) * 37, (xc + w / 2) * 53, (yc + h / 2) * 37]
    assert back == pytest.approx(box, abs=1e-3)


def test_a_yolo_data_set_has_a_label_for_every_image_and_none_for_an_empty_mask(tmp_path):
    masks = [block(3, 5, 9 + i, 20) for i in range(4)] + [block(0, 0, 0, 0)]
    yaml = write_yolo(write_cases(tmp_path, masks), TASK, tmp_path / "yolo")
    assert f"path: {yaml.parent}\ntrain: images/train\nval: images/val" in yaml.read_text()
    images = sorted(yaml.parent.glob("images/*/*.png"))
    labels = [yaml.parent / "labels" / p.parent.name / f"{p.stem}.txt" for p in images]
    assert {p.stem for p in images} == {f"c{i}" for i in range(5)}
    assert {p.parent.name for p in images} == {"train", "val"}
    lines = {p.stem: p.read_text() for p in labels}
    assert lines.pop("c4") == ""
    assert all(line.startswith("0 ") and line.count("\n") == 1 for line in lines.values())
    assert read_image(images[0]).array.shape == (40, 60, 3)


def test_a_yolo_data_set_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path):
    cases = write_cases(tmp_path, [block(3, 5, 9 + i, 20) for i in range(9)])
    for seed in (0, 1):
        yaml = write_yolo(cases, TASK, tmp_path / "yolo", seed=seed)
        assert sorted(p.stem for p in yaml.parent.glob("images/*/*")) == sorted(cases["case"])
    write_yolo(cases[:3], TASK, tmp_path / "yolo")
    assert len(list(yaml.parent.glob("*/*/*"))) == 6
    (mine := tmp_path / "mine").mkdir()
    (mine / "data.yaml").write_text("path: /data/mine\n")  # of somebody's own data set
    for place in (tmp_path, mine, mine / "data.yaml"):
        with pytest.raises(ValueError, match="this library has not written; expected a folder"):
            write_yolo(cases, TASK, place)
    assert (mine / "data.yaml").read_text() == "path: /data/mine\n"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_detector_needs_a_part_that_validates(tmp_path, count):
    cases = write_cases(tmp_path, [block(1, 1, 5, 5)] * 3)[:count]
    with pytest.raises(DataError, match=f"{count} labelled cases of {count} groups, expected at"):
        write_yolo(cases, TASK, tmp_path / "yolo")
    assert not (tmp_path / "yolo").exists()


def test_jitter_moves_edges_by_at_most_so_much_and_repeats_with_its_seed(tmp_path):
    masks = [block(1, 2, 20 + i, 30) for i in range(10)]
    cases = write_cases(tmp_path, masks)
    exact, moved = (boxes_from_masks(cases, TASK, jitter)[COLUMNS[1:5]] for jitter in (0, 4))
    away = (moved - exact).to_numpy()
    assert 1 < np.abs(away).mean() and np.abs(away).max() == 4
    assert (moved.min() >= 0).all() and moved["x1"].max() <= 60 and moved["y1"].max() <= 40
    pd.testing.assert_frame_equal(boxes_from_masks(cases, TASK, 4)[COLUMNS[1:5]], moved)
    assert not boxes_from_masks(cases, TASK, 4, seed=1)[COLUMNS[1:5]].equals(moved)
    alone = boxes_from_masks(cases.iloc[7:8], TASK, 4)  # a case's draw depends on its name alone
    assert alone[COLUMNS[1:5]].to_numpy().tolist() == [moved.loc[7].tolist()]


@pytest.mark.parametrize("shape", [(16, 32), (20, 16, 4)])
def test_a_mask_that_does_not_lie_on_its_image_gives_no_box(tmp_path, shape):
    image = write_picture(tmp_path / "a.png", np.zeros((32, 32), "uint8"))
    if len(shape) == 2:
        mask = write_picture(tmp_path / "mask.png", np.ones(shape, "uint8"))
    else:
        nib.save(nib.Nifti1Image(np.ones(shape, "uint8"), np.eye(4)), mask := tmp_path / "mask.nii")
    cases = case_table([{"case": "a", "image": image, "mask": mask}])
    with pytest.raises(DataError, match=r"expected \(32, 32\), the shape of|expected a picture"):
        boxes_from_masks(cases, Task(("t",), overlapping=True))


def test_a_table_comes_back_and_a_missing_score_is_one(tmp_path):
    boxes = table(("a", 1.25, 2, 30, 40, 0.5), ("a", 5, 5, 9, 9, 1), ("b", 0, 0, 3, 3, 0.75))
    write_boxes(boxes, tmp_path / "boxes.csv")
    pd.testing.assert_frame_equal(read_boxes(tmp_path / "boxes.csv"), boxes, check_dtype=False)
    (tmp_path / "plain.csv").write_text("case,x0,y0,x1,y1\na,1,2,3,4\n")
    assert read_boxes(tmp_path / "plain.csv")["score"].tolist() == [1]


def test_boxes_are_given_by_case_and_a_case_may_have_none(tmp_path):
    cases = write_cases(tmp_path, [block(1, 1, 5, 5)] * 2)
    boxes = boxes_by_case(table(("c0", 1, 1, 5, 5, 1), ("other", 0, 0, 999, 999, 1)), cases)
    assert boxes["c0"].tolist() == [[1, 1, 5, 5, 1]] and boxes["c1"].shape == (0, 5)


def test_all_boxes_that_do_not_fit_their_image_are_listed(tmp_path):
    cases = write_cases(tmp_path, [block(1, 1, 5, 5)] * 3)
    bad = table(("c0", 1, 1, 61, 5, 1), ("c1", 4, 4, 4, 9, 1), ("c2", 1, 1, 9, 9, 1))
    with pytest.raises(DataError) as caught:
        boxes_by_case(bad, cases, "boxes.csv")
    found = [problem.found for problem in caught.value.problems]
    assert found == ["the box 1 1 61 5 of 'c0'", "the box 4 4 4 9 of 'c1'"]
    assert "boxes.csv" in str(caught.value) and "x1 ≤ 60 and 0 ≤ y0 < y1 ≤ 40" in str(caught.value)


def test_a_table_of_other_cases_is_refused(tmp_path):
    cases = write_cases(tmp_path, [block(1, 1, 5, 5)])
    with pytest.raises(DataError, match="found no box of any of 1 cases"):
        boxes_by_case(table(("other", 1, 1, 5, 5, 1)), cases)


def test_names_that_two_domains_share_are_refused(tmp_path):
    cases = pd.concat([write_cases(tmp_path, [block(1, 1, 5, 5)])] * 2)
    with pytest.raises(DataError, match="several cases named c0"):
        boxes_by_case(table(("c0", 1, 1, 5, 5, 1)), cases)


def test_names_that_cannot_be_file_names_are_refused(tmp_path):
    cases = write_cases(tmp_path, [block(1, 1, 5, 5)]).assign(case="a/b")
    with pytest.raises(DataError, match="a slash in the names a/b"):
        boxes_by_case(table(("a/b", 1, 1, 5, 5, 1)), cases)


def test_a_detector_needs_masks(tmp_path):
    cases = write_cases(tmp_path, [block(1, 1, 5, 5)]).assign(mask="")
    with pytest.raises(DataError, match="1 cases without a mask: c0, expected masks"):
        write_yolo(cases, TASK, tmp_path / "yolo")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_stretched_to_three_8_bit_channels(channels):
    image = np.random.default_rng(0).uniform(-5, 9, (6, 7, channels))
    rgb = as_rgb(image)
    assert rgb.shape == (6, 7, 3) and rgb.dtype == "uint8"
    assert (rgb.min(), rgb.max()) == (0, 255)
    np.testing.assert_array_equal(rgb, as_rgb(4 * image))


def test_a_volume_is_no_picture():
    with pytest.raises(ValueError, match=r"shape \(4, 4, 4, 1\), expected \(H, W, channels\)"):
        as_rgb(np.zeros((4, 4, 4, 1)))


def test_a_fifth_of_the_groups_validates(tmp_path):
    cases = write_cases(tmp_path, [block(1, 1, 5 + i, 9) for i in range(20)])
    folder = write_yolo(cases, TASK, tmp_path / "yolo").parent
    assert [len(list(folder.glob(f"images/{part}/*"))) for part in ("train", "val")] == [16, 4]


def test_jitter_leaves_a_small_box(tmp_path):
    cases = write_cases(tmp_path, [block(20, 20, 21, 21)] * 20)
    boxes = boxes_from_masks(cases, TASK, jitter=4)
    assert (boxes["x1"] > boxes["x0"]).all() and (boxes["y1"] > boxes["y0"]).all()
