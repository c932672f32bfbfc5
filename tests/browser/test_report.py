"""The report in a browser: what moves, sorts and filters, by keyboard, light, dark and printed.

Screenshots and the printed page are left in runs/browser/.
"""

import base64
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import keras_meduda as km
from keras_meduda.data.cases import case_table, without_masks
from keras_meduda.evaluation.label_free import label_free
from keras_meduda.evaluation.report import (
    about_run,
    about_session,
    compare,
    score,
    write_label_free_report,
    write_report,
)
from keras_meduda.run import Run

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = pytest.mark.slow
OUTPUT = Path(__file__).parents[2] / "runs" / "browser"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update"
).split()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def labelled(run, phantoms, tmp_path_factory):
    """A report of three methods on all phantoms: 24 rows, one a case and class."""
    folder, cases = tmp_path_factory.mktemp("report"), km.read_cases(phantoms)
    frame, counts = score(run, cases)
    shares = {"source_only": 0.5, "adapted": 0.9, "oracle": 1.0}
    frames = {name: frame.assign(dice=share * frame["dice"]) for name, share in shares.items()}
    return write_report(
        folder / "report.html",
        title="Adaptation: a → b",
        parts={"target, test": frames},
        runs=dict.fromkeys(shares, run),
        cases=cases,
        task=run.task,
        facts=about_run(run) | about_session(0.0),
        calibration=dict.fromkeys(shares, counts),
        comparison=compare(folder, frames),
        trainings={"adapted": run.path},
    )


@pytest.fixture(scope="module")
def many(run, phantoms, tmp_path_factory):
    """A report of 48 rows, which the screen shows 25 at a time."""
    cases = km.read_cases(phantoms)
    frame, _ = score(run, cases)
    twins = [(cases.assign(case=cases["case"] + end), frame.assign(case=frame["case"] + end))
             for end in ("", "_again")]  # fmt: skip
    cases, frame = (pd.concat(parts) for parts in zip(*twins, strict=True))
    path = tmp_path_factory.mktemp("many") / "report.html"
    return write_report(path, "Many", {"test": {"net": frame}}, {"net": run}, cases, run.task, {})


@pytest.fixture(scope="module")
def unlabelled(run, phantoms, tmp_path_factory):
    cases, runs = without_masks(km.read_cases(phantoms)), {"source_only": run, "adapted": run}
    path = tmp_path_factory.mktemp("label_free") / "report.html"
    frame = label_free(runs, cases)
    return write_label_free_report(path, "No labels", runs, frame, cases, about_run(run))


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("volume"), np.random.default_rng(0)
    mask = np.zeros((12, 10, 8), "uint8")
    mask[3:8, 4:7, 2:6] = 1
    for name, array in (
        ("image", (mask + rng.random(mask.shape)).astype("float32")),
        ("mask", mask),
    ):
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
    files = {"image": str(folder / "image.nii.gz"), "mask": str(folder / "mask.nii.gz")}
    cases, task = case_table([{"case": "a", **files}]), km.Task(("lesion",), unit="mm")
    preprocessing = km.Preprocessing((8, 8, 8), normalise="zscore", channels=1, axes="XYZ")
    with km.setup():
        network = km.models.AERUNet((8, 8, 8, 1), task.channels, filters=(4, 8))
    run = Run(folder, network, task, preprocessing)
    frame, _ = score(run, cases)
    return write_report(
        folder / "report.html", "Volume", {"test": {"net": frame}}, {"net": run}, cases, task, {}
    )


@pytest.fixture
def page(browser, labelled):
    return opened(browser, labelled)


def opened(browser, path, width=1200):
    """The browser with a page, light, on paper no more; every record before it is gone."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    resize(browser, width)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "#case-table.dataTable")
    )
    return browser


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def dark(browser):
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(browser, name):
    """The whole page as a PNG under runs/browser/."""
    width, height = (
        browser.execute_script(f"return document.documentElement.scroll{side}")
        for side in ("Width", "Height")
    )
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot",
        {
            "captureBeyondViewport": True,
            "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
        },
    )
    keep(f"{name}.png", shot["data"])


def keep(name, data):
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / name).write_bytes(base64.b64decode(data))


def one(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)[0]


def style(browser, element, name):
    return browser.execute_script(
        "return getComputedStyle(arguments[0]).getPropertyValue(arguments[1])", element, name
    )


def shown_layers(browser, side):
    layers = browser.find_elements(By.CSS_SELECTOR, f"article:first-child .{side} .layer")
    return [i for i, e in enumerate(layers) if style(browser, e, "visibility") == "visible"]


def column(browser, heading):
    """Cells of the visible rows under the first heading that contains a text."""
    heads = [h.text for h in browser.find_elements(By.CSS_SELECTOR, "#case-table thead th")]
    index = next(i for i, text in enumerate(heads) if heading in " ".join(text.split()))
    rows = browser.find_elements(By.CSS_SELECTOR, "#case-table tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[index].text for row in rows]


def contrast(*colours):
    """Ratio of WCAG 2 between two colours, written as CSS computes them."""
    luminances = []
    for colour in colours:
        rgb = np.array([int(n) for n in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminances.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(luminances) / min(luminances)


@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "volume"])
def test_opens_without_an_error_and_asks_no_network(kind, browser, request):
    opened(browser, request.getfixturevalue(kind))
    assert browser.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    for article in browser.find_elements(By.TAG_NAME, "article"):
        stage = article.find_element(By.CLASS_NAME, "stage")
        assert stage.size["width"] > 200 and stage.size["height"] > 100
        assert style(browser, stage, "background-image").startswith('url("data:image/jpeg')
    picture(browser, kind)


def test_arrow_keys_wipe_between_left_and_right(page):
    wipe = one(page, "article .wipe")
    right = one(page, "article .right .layer-2")
    before = style(page, right, "clip-path")
    wipe.send_keys(Keys.ARROW_RIGHT)
    assert wipe.get_attribute("value") == "51" and wipe.get_attribute("aria-valuetext") == "51 %"
    assert style(page, right, "clip-path") != before
    wipe.send_keys(Keys.HOME)
    assert "0%" in style(page, right, "clip-path")
    assert one(page, "article:last-child .wipe").get_attribute("value") == "50"


def test_a_press_on_a_picture_moves_the_line_there(page):
    wipe = one(page, "article .wipe")
    quarter = -wipe.size["width"] // 4
    webdriver.ActionChains(page).move_to_element_with_offset(wipe, quarter, 0).click().perform()
    assert 20 <= int(wipe.get_attribute("value")) <= 30


def test_opacity_reaches_the_layers_and_is_said(page):
    slider, layer = one(page, "[data-sets='--opacity']"), one(page, "article .left .layer-1")
    assert float(style(page, layer, "opacity")) == pytest.approx(0.7)
    slider.send_keys(Keys.HOME)
    assert float(style(page, layer, "opacity")) == 0
    slider.send_keys(Keys.ARROW_RIGHT)
    assert one(page, "output[for='opacity-1']").text == "1 %"


def test_both_sides_show_what_is_chosen(page):
    assert shown_layers(page, "left") == [1] and shown_layers(page, "right") == [2]
    left = Select(one(page, ".choose-left"))
    for index, option in enumerate(left.options):
        left.select_by_index(index)
        assert shown_layers(page, "left") == [index], option.text
    names = [option.text for option in left.options]
    assert names[0] == "image" and names[-2:] == ["reference", "uncertainty of adapted"]
    assert shown_layers(page, "right") == [2]


def test_the_reference_can_be_taken_away(page):
    assert style(page, one(page, ".reference"), "display") == "block"
    one(page, ".outlined").send_keys(Keys.SPACE)
    assert style(page, one(page, ".reference"), "display") == "none"


def test_a_heading_sorts_by_keyboard(page):
    heads = page.find_elements(By.CSS_SELECTOR, "#case-table thead th")
    head = next(h for h in heads if h.text.split() == ["Dice,", "%", "adapted"])
    button = head.find_element(By.CSS_SELECTOR, "[role=button]")
    for order, sign in (("ascending", 1), ("descending", -1)):
        button.send_keys(Keys.ENTER)
        WebDriverWait(page, 5).until(lambda _, o=order: head.get_attribute("aria-sort") == o)
        values = sign * np.array([float(v) for v in column(page, "Dice, % adapted")])
        assert (np.diff(values) >= 0).all() and len(set(values)) > 1


def test_a_word_filters_the_cases(page):
    search = one(page, ".dt-search input")
    search.send_keys("camera_b disc")
    WebDriverWait(page, 5).until(lambda b: set(column(b, "class")) == {"disc"})
    assert set(column(page, "domain")) == {"camera_b"}
    assert "filtered from 24" in one(page, ".dt-info").text
    search.send_keys(" nobody")
    WebDriverWait(page, 5).until(lambda b: "No matching records" in one(b, "#case-table").text)


def test_the_tab_key_reaches_everything(page):
    wanted = page.execute_script(
        "return [...document.querySelectorAll('nav a, select, input, thead [role=button]')].length"
    )
    reached, body = set(), one(page, "body")
    body.click()
    page.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    for _ in range(wanted + 40):
        webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
        element = page.switch_to.active_element
        if (
            element.tag_name in ("a", "select", "input")
            or element.get_attribute("role") == "button"
        ):
            reached.add(element.id)
            outline = style(page, element, "outline-style")
            assert outline != "none", element.get_attribute("outerHTML")[:200]
    assert len(reached) >= wanted


def test_dark_is_dark_and_both_can_be_read(page):
    for scheme in ("light", "dark"):
        if scheme == "dark":
            dark(page)
        paper = style(page, one(page, "body"), "background-color")
        assert (contrast(paper, "rgb(0, 0, 0)") < 2) == (scheme == "dark")
        assert contrast(style(page, one(page, "h1"), "color"), paper) > 7
        for selector in (".soft", "nav a", "caption", "#case-table td"):
            assert contrast(style(page, one(page, selector), "color"), paper) > 4.5, selector
        assert contrast(style(page, one(page, "svg text"), "fill"), paper) > 7
        picture(page, scheme)


def test_paper_shows_every_layer_side_by_side(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert shown_layers(page, "left") == list(range(6))
    for selector in ("nav", ".controls", ".sides", ".dt-search", "article .right"):
        assert style(page, one(page, selector), "display") == "none", selector
    assert one(page, "article .layer figcaption").text == "image"
    paper = page.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    keep("print.pdf", paper["data"])


def test_paper_shows_every_case_and_the_screen_its_page(browser, many):
    opened(browser, many)
    one(browser, ".dt-paging-button[data-dt-idx='1']").click()
    WebDriverWait(browser, 5).until(lambda b: "26 to 48" in one(b, ".dt-info").text)
    before = column(browser, "case")
    browser.execute_script(
        """addEventListener("beforeprint", () => {
             window.printed = document.querySelectorAll("#case-table tbody tr").length;
           });"""
    )
    paper = browser.execute_cdp_cmd("Page.printToPDF", {})
    keep("print_many.pdf", paper["data"])
    assert browser.execute_script("return window.printed") == 48
    WebDriverWait(browser, 5).until(lambda b: "26 to 48" in one(b, ".dt-info").text)
    assert len(before) == 23 and column(browser, "case") == before


def test_a_narrow_screen_scrolls_no_page(browser, labelled):
    opened(browser, labelled, width=380)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 380
    articles = browser.find_elements(By.TAG_NAME, "article")
    assert len({a.location["x"] for a in articles}) == 1
    picture(browser, "narrow")


def test_a_slider_scrolls_the_slices(browser, volume):
    opened(browser, volume)
    slider, stage = one(browser, "[data-sets='--slice']"), one(browser, ".stage")
    slider.send_keys(Keys.HOME)
    first, place = (
        one(browser, "output[for='slice-1']").text,
        style(browser, stage, "background-position"),
    )
    assert re.fullmatch(r"slice \d of 8", first) and place.startswith("0%")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert one(browser, "output[for='slice-1']").text != first
    assert slider.get_attribute("aria-valuetext") != first
    slider.send_keys(Keys.END)
    assert style(browser, stage, "background-position").startswith("100%")
    layer = one(browser, ".right .layer-1 div")
    assert style(browser, layer, "background-position").startswith("100%")
