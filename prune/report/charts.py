"""The report's charts as inline SVG.

The pictures carry no colours of their own: every colour drawn here is a placeholder that becomes a
CSS variable of the page, so a chart follows the reader's light or dark setting. Texts stay texts.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from prune.report.cells import digits
from prune.report.schema import Quality, Quantiles, RatePoint, TrainingCurve

INK, MUTED, LINE = "#0a0a01", "#0a0a02", "#0a0a03"
DENSE, SPARSE, ACCENT = "#0a0a04", "#0a0a05", "#0a0a06"
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    DENSE: "var(--dense)",
    SPARSE: "var(--sparse)",
    ACCENT: "var(--accent)",
}
WIDTH = 5.2  # inches; half of the page, or the whole of a phone
MOST_POINTS = 300  # per curve; longer ones are averaged over equal numbers of steps

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leanvc",  # the same report draws the same bytes
    "text.parse_math": False,  # names may hold dollar signs
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Bars:
    """A dense and a sparse bar under one label, in any unit; `notes` stand at their ends.

    `spreads` are the (low, high) ends of the two whiskers, in the bars' unit.
    """

    label: str
    dense: float
    sparse: float
    notes: tuple[str, str]
    spreads: tuple[tuple[float, float], tuple[float, float]] | None = None


def paired_bars(rows: Sequence[Bars]) -> str:
    """Horizontal bars, dense over sparse, each pair under its label; widths share one scale."""
    with _chart(0.7 * len(rows)) as (figure, ax):
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(w_pad=0, h_pad=0)
        longest = max((max(row.dense, row.sparse) for row in rows), default=0) or 1
        for index, row in enumerate(rows):
            ax.text(0, index - 0.26, row.label, va="center", color=INK)
            sides = zip((row.dense, row.sparse), row.notes, (DENSE, SPARSE), strict=True)
            for place, (value, note, colour) in enumerate(sides):
                y = index + 0.02 + 0.26 * place
                ax.barh(y, value, height=0.21, color=colour)
                end = value
                if row.spreads:
                    low, end = row.spreads[place]
                    ax.plot([low, end], [y, y], color=INK, linewidth=1)
                ax.text(end + 0.015 * longest, y, note, va="center", color=MUTED, fontsize=8.5)
        ax.set_xlim(0, 1.3 * longest)
        ax.set_ylim(len(rows) - 0.55, -0.45)
        ax.axis("off")
        return _svg(figure)


def latency_bars(label: str, dense: Quantiles, sparse: Quantiles) -> Bars:
    """A row of `paired_bars` in units of the dense median, for runs of very different lengths."""
    unit = dense.median or 1

    def note(spread: Quantiles) -> str:
        return f"{digits(spread.median)} ms"

    def ends(spread: Quantiles) -> tuple[float, float]:
        return spread.p10 / unit, max(spread.median, spread.p90) / unit

    widths = dense.median / unit, sparse.median / unit
    return Bars(label, *widths, (note(dense), note(sparse)), (ends(dense), ends(sparse)))


def rate_distortion(entry: Quality) -> str | None:
    """PSNR over bits per pixel: curves of several rate points, or the clips around a single one."""
    points = [point for point in entry.points if _place(point, "dense") or _place(point, "sparse")]
    if not points:
        return None
    with _chart(3.3) as (figure, ax):
        if len(points) == 1:
            _clips_around(ax, [c for c in entry.clips_detail if c.rate == points[0].rate])
        for side, colour, mark in (("dense", DENSE, "o"), ("sparse", SPARSE, "D")):
            places = sorted(place for point in points if (place := _place(point, side)))
            if places:
                xs, ys = zip(*places, strict=True)
                ax.plot(xs, ys, color=colour, marker=mark, markersize=6, label=side)
        for codec in dict.fromkeys(anchor.codec for anchor in entry.anchors or []):
            places = sorted((a.bpp, a.psnr) for a in entry.anchors or [] if a.codec == codec)
            xs, ys = zip(*places, strict=True)
            ax.plot(xs, ys, color=ACCENT, marker="^", markersize=5, linestyle=":", label=codec)
        ax.set(xlabel="bits per pixel", ylabel="PSNR, dB")
        ax.margins(0.08)
        _legend(ax)
        return _svg(figure)


@dataclass(frozen=True)
class Labelled:
    """A point of a chart and its name."""

    x: float
    y: float
    label: str


def pareto(points: Sequence[Labelled], xlabel: str, ylabel: str, better: int) -> str:
    """Runs as points, with a line through those that none beats: less x, and less or more y.

    `better`: 1 where more y is better, -1 where less is. Runs on the line are named.
    """
    front: list[Labelled] = []
    for point in sorted(points, key=lambda p: (p.x, -better * p.y)):
        if not front or better * point.y > better * front[-1].y:
            front.append(point)
    with _chart(3.3) as (figure, ax):
        ax.plot([p.x for p in points], [p.y for p in points], "o", color=DENSE, markersize=5)
        xs, ys = [p.x for p in front], [p.y for p in front]
        ax.plot(xs, ys, color=SPARSE, marker="o", markersize=6)
        for point in front:
            ax.annotate(
                point.label, (point.x, point.y), (6, -11 * better), textcoords="offset points",
                color=MUTED, fontsize=8,
            )  # fmt: skip
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.margins(0.15)
        return _svg(figure)


def training(curves: Sequence[TrainingCurve], fields: Sequence[str], label: str) -> str | None:
    """One or more fields of all stages over the steps, stage after stage; None without values."""
    colours = {"budget": ACCENT, "beta": MUTED}
    styles = {"budget": "--", "beta": "-."}
    with _chart(2.6) as (figure, ax):
        drawn: list[float] = []
        start = 0
        for curve in curves:
            if not curve.step:
                continue
            # Stages that count from their own beginning follow each other on the axis.
            offset = start if curve.step[0] < start else 0
            if start:
                ax.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
            for field in fields:
                xs, ys = _thinned(curve.step, getattr(curve, field))
                xs = [x + offset for x in xs]
                marker = "o" if len(xs) == 1 else None
                colour, style = colours.get(field, SPARSE), styles.get(field, "-")
                ax.plot(
                    xs, ys, marker=marker, markersize=3, label=field, color=colour, linestyle=style
                )
                drawn.extend(y for y in ys if math.isfinite(y))
            start = offset + curve.step[-1]
        if not drawn:
            return None
        if fields == ("loss",) and min(drawn) > 0 and max(drawn) > 20 * min(drawn):
            ax.set_yscale("log")
        ax.set(xlabel="step", ylabel=label)
        if len(fields) > 1:
            _legend(ax)
        return _svg(figure)


def _clips_around(ax: Axes, clips: Sequence[RatePoint]) -> None:
    for clip in clips:
        dense, sparse = _place(clip, "dense"), _place(clip, "sparse")
        if dense and sparse:
            ax.plot(*zip(dense, sparse, strict=True), color=MUTED, linewidth=0.8, alpha=0.6)
            ax.plot(*dense, "o", color=DENSE, markersize=3.5, alpha=0.75)
            ax.plot(*sparse, "D", color=SPARSE, markersize=3, alpha=0.75)


def _place(point: RatePoint, side: str) -> tuple[float, float] | None:
    measure = getattr(point, side)
    known = measure.bpp is not None and measure.psnr is not None
    return (measure.bpp, measure.psnr) if known else None


def _thinned(
    steps: Sequence[int], values: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    """At most MOST_POINTS means of the known values; an unknown value breaks nothing but itself."""
    known = [(x, y) for x, y in zip(steps, values, strict=False) if y is not None]
    run = max(1, math.ceil(len(known) / MOST_POINTS))
    means = [
        [sum(column) / len(column) for column in zip(*known[at : at + run], strict=True)]
        for at in range(0, len(known), run)
    ]
    return [x for x, _ in means], [y for _, y in means]


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    ax.legend(unique.values(), unique.keys(), loc="best")


@contextmanager
def _chart(height: float) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        ax = figure.add_subplot()
        ax.patch.set_visible(False)
        yield figure, ax


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element that takes its fonts and colours from the page around it."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The page's font draws the text; matplotlib's own only measures it.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg)
    svg = svg.replace("xlink:href", "href")
    # Ids that nothing refers to (figure_1, axes_1 ...) would repeat from chart to chart.
    used = set(re.findall(r"#(\w+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    return re.sub(r' style="[^"]*"', lambda match: _page_style(match[0]), svg).strip()


def _page_style(style: str) -> str:
    style = re.sub(r"font-family: [^;\"]*;? ?", "", style)
    for colour, variable in VARIABLES.items():
        style = style.replace(colour, variable)
    return style
