"""Rate-distortion plots as small SVG files; the same results draw the same bytes."""

import io
import math
import re
import warnings
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

STYLE = {
    "svg.fonttype": "none",  # texts stay texts, which keeps files small
    "svg.hashsalt": "leanvc",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e0",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#b0b0aa",
    "xtick.minor.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    # Read on dark pages as well, where a transparent ground would swallow the texts.
    "savefig.facecolor": "white",
}
ANCHOR_LOOKS = {
    "x264 veryfast": ("#9a9a94", ":"),
    "x264 medium": ("#9a9a94", "-"),
    "x265 veryfast": ("#4c78a8", ":"),
    "x265 medium": ("#4c78a8", "-"),
    "SVT-AV1 preset 4": ("#222222", "--"),
}
COLOURS = ("#d1495b", "#2a9d5c", "#e08e2b", "#8e5bb5", "#1f9bb0", "#a3623a")
TICKS = (0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0)
LOWEST, HIGHEST = 0.025, 1.1
"""Bits per pixel that are shown at least."""


@dataclass(frozen=True)
class Line:
    """One curve of a plot: sorted or not, of `rd.curves.Point`."""

    label: str
    points: list
    colour: str
    style: str = "-"
    marker: str = ""


def anchor_lines(curves):
    """Lines of anchors, by title."""
    return [Line(title, curve, *ANCHOR_LOOKS[title]) for title, curve in curves.items()]


def codec_lines(curves):
    """Lines of learned codecs, by name: dots at their rate points."""
    return [
        Line(name, curve, COLOURS[number % len(COLOURS)], marker="o")
        for number, (name, curve) in enumerate(curves.items())
    ]


def draw(panels, columns, size):
    """An SVG of panels, (title, lines) each, in so many columns; `size` of one in inches."""
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="findfont")
        figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for number, (title, lines) in enumerate(panels):
            _panel(axes[number], title, lines)
            if number % columns == 0:
                axes[number].set_ylabel("PSNR, dB")
            if number + columns >= len(panels):
                axes[number].set_xlabel("bits per pixel")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        lines = panels[0][1]
        if len(panels) == 1:
            axes[0].legend(loc="lower right")
        else:
            handles = axes[0].get_legend_handles_labels()[0]
            names = [line.label for line in lines]
            figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(lines)))
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    # A hundredth of a point is fine enough, and halves the file.
    return re.sub(r"(\d\.\d{2})\d+", r"\1", target.getvalue())


def _panel(axis, title, lines):
    for line in lines:
        points = sorted(line.points, key=lambda p: p.bpp)
        x, y = [p.bpp for p in points], [p.psnr for p in points]
        axis.plot(x, y, line.style, color=line.colour, marker=line.marker, ms=4, label=line.label)
    left, right, low, high = window(lines)
    axis.set_xscale("log")
    axis.minorticks_off()
    shown = [tick for tick in TICKS if left <= tick <= right]
    axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)
    axis.set_title(title, loc="left", fontsize=9.5)


def window(lines):
    """(least bpp, most bpp, least PSNR, most PSNR) to show: all of the learned codecs' points.

    Of the anchors' what lies inside `LOWEST` to `HIGHEST` bits per pixel or the codecs' own rates.
    """
    own = [p for line in lines if line.marker for p in line.points]
    left = min([LOWEST, *(p.bpp / 1.1 for p in own)])
    right = max([HIGHEST, *(p.bpp * 1.1 for p in own)])
    seen = [p.psnr for line in lines for p in line.points if left <= p.bpp <= right]
    return left, right, min(seen) - 0.5, max(seen) + 0.5
