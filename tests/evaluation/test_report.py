"""The report as text: what it says, that it stands alone, and that no name breaks it."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

import keras_meduda as km
from keras_meduda.data.cases import case_table, without_masks
from keras_meduda.data.io import read_image, write_picture
from keras_meduda.evaluation.label_free import label_free, reference_shares, suspicious
from keras_meduda.evaluation.report import (
    about_run,
    about_session,
    charts,
    compare,
    outline,
    pictures,
    score,
    write_label_free_report,
    write_report,
)
from keras_meduda.evaluation.report.pictures import Strip, as_rgb, coloured
from keras_meduda.evaluation.report.tables import mean_over_classes
from keras_meduda.run import Run

ODD = """"><script>alert('x')</script> & $\\alpha$ 'éß漢 {{ 7 * 7 }}"""


class Page(HTMLParser):
    """Tags, attributes and text of a page; addresses that a browser would fetch."""

    void = {"meta", "link", "input", "br", "img"}

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.links, self.ids, self.tags = [], [], [], [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[k] for k in ("src", "href", "xlink:href") if k in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] in ("p", "li", "option") and tag != self.open[-1]:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def says(self, text):
        return text in " ".join("".join(self.text).split())


def target(phantoms):
    cases = km.read_cases(phantoms)
    return cases[cases["domain"] == "camera_b"]


def report(path, run, cases, **more):
    """A report of two methods that are the same run."""
    frame, counts = score(run, cases, more.pop("task", None))
    frames = {"source_only": frame, "adapted": frame.assign(dice=frame["dice"] / 2)}
    return write_report(
        path / "report.html",
        title="A study",
        parts={"target, test": frames, "source, test": {"adapted": frame}},
        runs={"source_only": run, "adapted": run},
        cases=cases,
        task=run.task,
        facts=about_run(run) | about_session(0.0),
        calibration={"adapted": counts},
        comparison=compare(path, frames) if len(run.task.classes) > 1 else None,
        trainings={"adapted": run.path},
        **{"data": [{"part": "test", "cases": len(cases), "groups": 3, "use": "all"}], **more},
    )


def test_a_report_stands_alone_and_says_what_was_found(run, phantoms, tmp_path):
    cases = target(phantoms)
    page = Page(report(tmp_path, run, cases))
    assert not page.open and "".join(page.text).count("{{") == 0
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    frame, _ = score(run, cases)
    dice = 100 * mean_over_classes(frame)["dice"].mean() / 2
    assert page.says(f"Mean Dice of adapted: {dice:.1f} %")
    for text in (
        "Best case", "Median case", "Worst case", "Wilcoxon", "gap closed", "95th percentile",
        "Expected calibration error", "aerunet", "4 steps of 2, seed 0", "Python 3", "Unit: px",
        "uncertainty of adapted", *cases["case"],
    ):  # fmt: skip
        assert page.says(text), text
    assert {"h1", "h2", "h3", "table", "caption", "figure", "svg", "nav", "main"} <= set(page.tags)


def test_a_run_called_oracle_has_a_report_of_its_own(run, phantoms, tmp_path):
    cases = target(phantoms)
    parts = {"test": {"oracle": score(run, cases)[0]}}
    page = write_report(tmp_path / "a.html", "Oracle", parts, {"oracle": run}, cases, run.task, {})
    assert Page(page).says("Mean Dice of oracle") and Page(page).says("uncertainty of oracle")


def test_odd_names_stay_text(run, phantoms, tmp_path):
    cases = target(phantoms).assign(group=ODD, domain=ODD)
    odd = cases["case"].iloc[0] + ODD
    cases["case"] = [odd, *cases["case"].iloc[1:]]
    page = report(tmp_path, run, cases, notes=(ODD,))
    read = Page(page)
    text = page.read_text("utf-8")
    assert read.says(odd) and "<script>alert" not in text and "49" not in read.text
    assert read.tags.count("script") == 1


def test_charts_take_any_name_for_what_it_is(recwarn):
    frame = pd.DataFrame({"class": [ODD, "$x$"], "dice": [0.5, 0.7], "hd95": [3.0, 4.0]})
    counts = np.ones((2, 15, 3))
    history = pd.DataFrame({"step": [1, 2, 3], ODD: [0.1, 9.0, 0.5], "other": [1.0, np.nan, 2.0]})
    for chart in (
        charts.boxes({ODD: frame}, "px", ODD),
        charts.areas({ODD: {ODD: np.ones(3)}}),
        charts.curves(history, ODD),
        charts.reliability_diagram({ODD: counts}, [ODD, "$x$"]),
    ):
        drawn = ElementTree.fromstring(str(chart))
        text = " ".join(drawn.itertext())
        assert ODD in text.replace("\n", "") and charts.INK not in chart
    assert not recwarn.list


def test_domains_that_share_names_of_cases_are_told_apart(run, phantoms, tmp_path):
    """As contrasts of one patient do: each row has its own score, each picture its own image."""
    cases = km.read_cases(phantoms)
    other = cases[cases["domain"] == "camera_a"].iloc[:2]
    cases = pd.concat([target(phantoms).iloc[:2].assign(case=list(other["case"])), other])
    frame, _ = score(run, cases)
    best = (frame["domain"] == "camera_a") & (frame["case"] == other["case"].iloc[1])
    frame["dice"] = np.where(best, 0.987, 0.123)
    page = write_report(
        tmp_path / "report.html",
        "Twins",
        {"all": {"net": frame}},
        {"net": run},
        cases,
        run.task,
        {},
    )
    read = Page(page)
    assert read.says("4 cases of") and read.says(
        f"Best case: Dice 98.7 % {other['case'].iloc[1]}, c"
    )
    cells = re.findall(
        r'<th scope="row">(\w+)</th><td>\w+</td><td>(\w+)</td>.*?>([\d.]+)<',
        page.read_text("utf-8"),
    )
    assert len(cells) == 8
    assert {cell[:2] for cell in cells if cell[2] == "98.7"} == {
        (other["case"].iloc[1], "camera_a")
    }
    image = read_image(other["image"].iloc[1])
    shown = pictures.background(
        image.array, Strip.of(np.ones(image.array.shape[:2]), image.spacing)
    )
    first = page.read_text("utf-8").split("<article")[1]
    assert shown in first and "Best case" in first
    labels_free = label_free({"net": run}, without_masks(cases))
    page = write_label_free_report(
        tmp_path / "free.html", "Twins", {"net": run}, labels_free, without_masks(cases), {}
    )
    assert Page(page).says("4 cases of")


def test_two_cases_are_best_and_worst(run, phantoms, tmp_path):
    page = Page(report(tmp_path, run, target(phantoms).iloc[:2]))
    assert page.tags.count("article") == 2
    assert page.says("Best case and median case") and page.says("no test: ")


def test_two_thousand_cases_bring_no_more_pictures(run, phantoms, tmp_path):
    cases = target(phantoms).iloc[:3]
    frame, _ = score(run, cases)
    small = report(tmp_path, run, cases)
    many = pd.concat(
        [
            frame.assign(case=frame["case"] + f"_{i}", group=frame["group"] + f"_{i}")
            for i in range(667)
        ]
    )
    table = pd.concat([cases.assign(case=cases["case"] + f"_{i}") for i in range(667)])
    page = write_report(
        tmp_path / "many.html",
        title="Many",
        parts={"test": {"adapted": many}},
        runs={"adapted": run},
        cases=table,
        task=run.task,
        facts={},
    )
    read = Page(page)
    assert read.tags.count("article") == 3 and read.says("2001 cases")
    assert read.tags.count("tr") > 4000
    assert page.stat().st_size - small.stat().st_size < 3e6


def test_a_report_is_written_whole_or_not_at_all(run, phantoms, tmp_path):
    first = report(tmp_path, run, target(phantoms)).read_bytes()
    with pytest.raises(UndefinedError):
        report(tmp_path, run, target(phantoms), data=[{"no": "cases"}])
    assert (tmp_path / "report.html").read_bytes() == first
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "comparison.json"}


def test_without_labels(run, phantoms, tmp_path):
    cases = without_masks(target(phantoms))
    frame = label_free({"source_only": run, "adapted": run}, cases)
    assert (frame["disagreement"] == 0).all() and frame["entropy"].gt(0).all()
    assert frame["area_share"].equals(frame["area_share_source_only"])
    labelled = km.read_cases(phantoms)
    shares = reference_shares(labelled[labelled["domain"] == "camera_a"], run.task)
    assert set(shares) == {"cup", "disc"} and (shares["cup"] < shares["disc"]).all()
    page = Page(
        write_label_free_report(
            tmp_path / "report.html",
            "No labels",
            {"source_only": run, "adapted": run},
            frame,
            cases,
            about_run(run),
            shares,
        )
    )
    assert page.says("no accuracy can be given") and page.says("masks of the source")
    assert page.says("Most disagreement") and not page.says("HD95") and not page.says("reference")
    alone = label_free({"student": run}, cases)
    assert "disagreement" not in alone
    page = Page(
        write_label_free_report(tmp_path / "a.html", "One", {"student": run}, alone, cases, {})
    )
    assert page.says("Most entropy") and not page.says("disagreement")


def test_areas_that_stand_out_are_named_and_others_are_not(run, phantoms, tmp_path):
    cases = without_masks(target(phantoms))
    frame = pd.DataFrame(
        {
            "case": [str(i) for i in range(20)],
            "class": "cup",
            "area_share": 0.10,
            "area_share_source_only": 0.15,
            "prediction_empty": False,
        }
    )
    shares = {"cup": np.linspace(0.05, 0.2, 50)}
    assert suspicious(frame, shares) == []
    assert "0.33 times" in suspicious(frame.assign(area_share=0.05))[0]
    assert "240 times" in suspicious(frame.assign(area_share_source_only=0.1 / 240))[0]
    assert "2.7 times" in suspicious(frame.assign(area_share=0.40))[0]
    assert "nine of ten" in suspicious(frame, {"cup": 3 * shares["cup"]})[0]
    for empty, lines in ((2, 0), (3, 1)):
        assert len(suspicious(frame.assign(prediction_empty=np.arange(20) < empty))) == lines
    frame = label_free({"source_only": run, "adapted": run}, cases)
    frame["area_share"] /= 4
    page = write_label_free_report(
        tmp_path / "report.html", "None", {"source_only": run, "adapted": run}, frame, cases, {}
    )
    assert Page(page).says("cup: the median area is 0.25 times that of source only.")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """An untrained network and two small volumes with thick slices along Y."""
    folder, rng = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    rows = []
    for case in ("a", "b"):
        mask = np.zeros((12, 9, 10), "uint8")
        mask[3:8, 4:7, 2:6] = 1
        image = mask * 50 + rng.random(mask.shape)
        affine = np.diag([0.5, 2.0, 0.5, 1.0])
        for name, array in (("image", image.astype("float32")), ("mask", mask)):
            nib.save(nib.Nifti1Image(array, affine), folder / f"{case}_{name}.nii.gz")
        rows.append(
            {"case": case, "domain": "mr", "image": str(folder / f"{case}_image.nii.gz"),
             "mask": str(folder / f"{case}_mask.nii.gz")}
        )  # fmt: skip
    task = km.Task(("lesion",), unit="mm")
    preprocessing = km.Preprocessing((8, 8, 8), normalise="zscore", channels=1, axes="XYZ")
    with km.setup():
        network = km.models.AERUNet((8, 8, 8, 1), task.channels, filters=(4, 8))
    return Run(folder, network, task, preprocessing), case_table(rows)


def test_volumes_are_scrolled_by_slice(volumes, tmp_path):
    run, cases = volumes
    page = report(tmp_path, run, cases)
    assert Page(page).says("Seen as radiologists do") and "slice 5 of 9" in page.read_text("utf-8")


def test_a_strip_cuts_across_the_thickest_slices_and_keeps_proportions(volumes):
    _, cases = volumes
    image = read_image(cases["image"][0])
    foreground = np.zeros(image.array.shape[:3], bool)
    foreground[3:8, 4:6, 2:6] = True
    strip = Strip.of(foreground, image.spacing)
    assert strip.axis == 1 and strip.indices == (2, 3, 4, 5, 6, 7) and strip.count == 9
    assert strip.tile == (round(256 * 10 / 12), 256)  # Z up, X across
    assert Strip.of(~foreground & False, image.spacing).indices == tuple(range(9))
    assert len(Strip.of(np.ones((4, 4, 90), bool), (1, 1, 1)).indices) == 24


def test_slices_have_the_right_side_on_the_left_and_the_top_above():
    volume = np.zeros((4, 4, 4, 1), "uint8")
    volume[3, 3, 2] = 9  # right, in front
    (tile,) = Strip(2, (2,), 4, (4, 4)).tiles(volume, smooth=False)
    assert tile[0, 0, 0] == 9 and tile.sum() == 9


def test_a_small_class_lies_above_a_large_one():
    masks = np.zeros((10, 10, 2), bool)
    masks[4:6, 4:6, 0] = masks[..., 1] = True
    strip = Strip(None, (0,), 1, (10, 10))
    assert coloured(masks, strip) != coloured(masks[..., ::-1], strip)


def test_grey_is_stretched_and_colour_kept():
    colour = np.random.default_rng(0).integers(0, 256, (6, 6, 3), "uint8")
    assert np.array_equal(as_rgb(colour), colour)
    deep = np.arange(36, dtype="float32").reshape(6, 6, 1)
    grey = as_rgb(deep)
    assert grey.dtype == np.uint8 and grey.shape == (6, 6, 3)
    assert grey.min() == 0 and grey.max() == 255 and (np.diff(grey[..., 0].ravel()) >= 0).all()
    assert not as_rgb(np.zeros((4, 4, 1), "float32")).any()


@pytest.mark.parametrize("colour", charts.COLOURS)
@pytest.mark.parametrize("paper", ["#ffffff", "#14171a"])
def test_lines_of_charts_stand_out_on_either_page(colour, paper):
    """WCAG 2.2, 1.4.11: graphics have a contrast of 3 to 1."""
    luminances = []
    for text in (colour, paper):
        rgb = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminances.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    assert max(luminances) / min(luminances) >= 3


def test_outline_draws_on_a_copy(tmp_path):
    image = np.zeros((9, 9, 3), "uint8")
    masks = np.zeros((9, 9, 1), bool)
    masks[3:6, 3:6] = True
    drawn = outline(image, masks, thickness=1)
    assert not image.any() and drawn[3, 3].any() and not drawn[4, 4].any()
    assert write_picture(tmp_path / "a.png", drawn).exists()
