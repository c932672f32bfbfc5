"""Charts of a report: matplotlib's SVG, in the page's own font and ink, light or dark."""

import logging
import re
import warnings
import zlib
from io import StringIO

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

logging.getLogger("matplotlib.font_manager").setLevel("ERROR")  # a slow first start is no news
INK = "#010203"  # a colour that nothing else has; the page's own takes its place
# After Okabe & Ito, those that keep a contrast of 3 to 1 on the light and on the dark page.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#8c6bb1", "#7f7f7f")
MARKERS = "os^Dvp"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.2,
    "legend.frameon": False,
    **{
        f"{name}color": INK
        for name in ("text.", "axes.edge", "axes.label", "xtick.", "ytick.", "grid.")
    },
}


def boxes(frames: dict[str, pd.DataFrame], unit: str, heading: str) -> Markup:
    """Dice and HD95 of every class as box plots, one colour a method, single cases as dots.

    Args:
        frames: method → table of case metrics.
        unit: of the distances.
        heading: says in words which cases these are.
    """
    classes = list(next(iter(frames.values()))["class"].unique())
    with rc_context(STYLE):
        width = max(3.6, 0.9 + 0.42 * len(classes) * (len(frames) + 0.8))
        figure = Figure(figsize=(2 * width, 3.2), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, (metric, scale, label) in zip(
            axes, [("dice", 100, "Dice, %"), ("hd95", 1, f"HD95, {unit}")], strict=True
        ):
            for m, frame in enumerate(frames.values()):
                at = np.arange(len(classes)) * (len(frames) + 0.8) + m
                values = [
                    scale * frame.loc[frame["class"] == name, metric].dropna().to_numpy()
                    for name in classes
                ]
                _boxes(axis, values, at, COLOURS[m % len(COLOURS)])
            middle = np.arange(len(classes)) * (len(frames) + 0.8) + (len(frames) - 1) / 2
            axis.set_xticks(middle, classes)
            axis.set_ylabel(label)
            axis.set_ylim(bottom=0 if metric == "hd95" else None)
        _legend(figure, frames, Patch)
        return _svg(figure, f"Box plots of Dice and HD95 per class and method, {heading}")


def areas(shares: dict[str, dict[str, np.ndarray]]) -> Markup:
    """Share of the image that each class takes, in the source's masks and in predictions.

    Args:
        shares: class → {"reference masks of the source": shares of the images, …}.
    """
    with rc_context(STYLE):
        groups = next(iter(shares.values()))
        figure = Figure(
            figsize=(7.6, 0.9 + 0.32 * len(shares) * (len(groups) + 1)), layout="constrained"
        )
        axis = figure.subplots()
        names, at = [], []
        for c, (name, of) in enumerate(shares.items()):
            for m, values in enumerate(of.values()):
                place = -(c * (len(of) + 1) + m)
                _boxes(axis, [100 * values], [place], COLOURS[m % len(COLOURS)], "horizontal")
            names.append(name)
            at.append(-(c * (len(of) + 1) + (len(of) - 1) / 2))
        axis.set_yticks(at, names)
        axis.grid(axis="x", visible=True)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("area, % of the image")
        _legend(figure, groups, Patch)
        return _svg(figure, "Box plots of the area of each class: " + ", ".join(groups))


def curves(history: pd.DataFrame, heading: str) -> Markup:
    """Every column of a history over the steps; values taken now and then have markers.

    Args:
        history: `history.csv` of a run.
        heading: says in words which training this is.
    """
    numbers = history.drop(columns="step").select_dtypes("number").T.drop_duplicates().T
    with rc_context(STYLE):
        figure = Figure(figsize=(3.8, 2.6), layout="constrained")
        axis = figure.subplots()
        for i, (name, values) in enumerate(numbers.items()):
            known = values.notna()
            axis.plot(
                history["step"][known],
                values[known],
                color=COLOURS[i % len(COLOURS)],
                linestyle=("-", "--", ":", "-.")[i // 2 % 4],
                linewidth=1.4,
                marker=None if known.all() and len(values) > 2 else MARKERS[i % len(MARKERS)],
                markersize=4,
                label=name,
            )
        values = numbers.to_numpy()
        values = values[np.isfinite(values)]
        if values.size and values.min() > 0 and values.max() > 30 * values.min():
            _log(axis)
        axis.set(title=heading, xlabel="step")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(numbers.columns):
            figure.legend(
                loc="outside lower center", ncols=min(3, len(numbers.columns)), fontsize=9
            )
        return _svg(figure, f"Learning curves, {heading}: {', '.join(numbers)} over the steps")


def reliability_diagram(counts: dict[str, np.ndarray], classes) -> Markup:
    """Frequency over probability, a panel a class; below it how many pixels a bin holds.

    Args:
        counts: method → what `calibration.reliability` gives, `(classes, bins, 3)`.
        classes: names of the classes.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(max(7.6, 3.4 * len(classes)), 4), layout="constrained")
        grid = figure.subplots(
            2, len(classes), sharex=True, squeeze=False, height_ratios=(3, 1), sharey="row"
        )
        for c, name in enumerate(classes):
            above, below = grid[:, c]
            above.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
            for m, table in enumerate(counts.values()):
                pixels, promised, found = table[c].T
                held = pixels > 0
                p, share = promised[held] / pixels[held], found[held] / pixels[held]
                look = {"color": COLOURS[m % len(COLOURS)], "marker": MARKERS[m % len(MARKERS)]}
                look |= {"markersize": 4, "linewidth": 1.2}
                above.plot(p, share, **look)
                below.plot(p, 100 * pixels[held] / pixels.sum(), **look)
            above.set(title=name, ylim=(-0.03, 1.03))
            below.set_xlabel("probability")
            _log(below)
        grid[0, 0].set_ylabel("share of the class")
        grid[1, 0].set_ylabel("pixels, %")
        _legend(figure, counts, Line2D)
        return _svg(
            figure,
            "Reliability diagrams: share of the pixels that belong to the class over the "
            "probability given to them; on the dotted diagonal they agree",
        )


def _boxes(axis, values, at, colour, orientation="vertical"):
    few = max(map(len, values)) <= 60
    drawn = axis.boxplot(
        values,
        positions=at,
        widths=0.7,
        orientation=orientation,
        manage_ticks=False,
        showfliers=not few,
        patch_artist=True,
        medianprops={"color": INK, "linewidth": 1.6},
        whiskerprops={"color": colour},
        capprops={"color": colour},
        boxprops={"color": colour},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour},
    )
    for box in drawn["boxes"]:
        box.set_facecolor((*box.get_edgecolor()[:3], 0.3))
    if few:  # every case as a dot, pushed aside a little so that equal ones can be told apart
        for place, cases in zip(at, values, strict=True):
            aside = place + 0.5 * (np.random.default_rng(0).random(len(cases)) - 0.5)
            where = (aside, cases) if orientation == "vertical" else (cases, aside)
            axis.plot(*where, ".", color=colour, markersize=4, alpha=0.8)


def _log(axis):
    """A logarithmic scale whose ticks are plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _legend(figure, names, kind):
    handles = []
    for m, name in enumerate(names):
        colour, label = COLOURS[m % len(COLOURS)], name.replace("_", " ")
        if kind is Patch:
            handles.append(Patch(facecolor=colour, label=label))
        else:
            handles.append(Line2D([], [], color=colour, marker=MARKERS[m % 6], label=label))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)


def _svg(figure, description):
    """The chart as an element of the page, its ids its own, with a description for readers."""
    text, width = StringIO(), 100 * figure.get_figwidth()
    with rc_context({"svg.hashsalt": description}), warnings.catch_warnings():
        # The browser has the glyphs: matplotlib's font only measures the text.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px sans-serif", svg)
    prefix = f"c{zlib.crc32(description.encode()):x}-"  # ids are unique in a page, not in a chart
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    look = f'role="img" aria-label="{escape(description)}" style="max-width: {width:.0f}px"'
    return Markup(svg.replace("<svg ", f"<svg {look} ", 1))
