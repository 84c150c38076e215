"""The generated part of docs/teachers.md, and the plots that it shows."""

from rd.anchors import KINDS
from rd.curves import averaged
from rd.plots import anchor_lines, codec_lines, draw
from rd.project import UserError, atomic_write
from rd.tables import (
    AGAINST,
    against,
    anchors_table,
    compared,
    comparison,
    i_frames,
    signed,
    table,
)

BEGIN = "<!-- begin: written by `python benchmarks/teachers.py --document` -->"
END = "<!-- end: written by `python benchmarks/teachers.py --document` -->"
START = f"# Teachers\n\n{BEGIN}\n{END}\n"
PANEL = (3.3, 2.5)
WHOLE = (7.5, 4.8)


def write_document(docs, results, store):
    """Draw and write docs/teachers.md, its prose left as it is; the paths that were written.

    `results` of clips over the frames of `store`'s anchors. UserError where there are none, or
    where the document has lost its marks.
    """
    codecs = [c for c in (compared(r, store) for r in results) if c.clips]
    if not codecs:
        raise UserError("nothing to show: no codec has a clip measured at all its rates")
    if not common(codecs):
        raise UserError("nothing to show: no clip was measured with all of the codecs")
    path, folder = docs / "teachers.md", docs / "teachers"
    text = replaced(path.read_text() if path.is_file() else START, body(codecs, store), path)
    drawings = {folder / "average.svg": averages_plot(codecs, store)}
    drawings |= {folder / f"{c.results.name}.svg": clips_plot(c) for c in codecs}
    for target, content in {**drawings, path: text}.items():
        atomic_write(target, content)
    return [*drawings, path]


def replaced(text, generated, path):
    """The document with what stands between the marks replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{path}: the marks are gone; put these two lines in: {BEGIN} {END}")
    return f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}"


def body(codecs, store):
    clips = common(codecs)
    parts = [
        "## Rate and distortion",
        f"Averages over {len(clips)} clips ({', '.join(clips)}), 32 frames each (all, where a clip "
        "has fewer), one I frame, coding loop. bpp is bits per pixel over all frames, PSNR in dB "
        "over RGB. x264, x265 and SVT-AV1: low delay, one I frame, constant QP, tuned for PSNR "
        f"({', '.join(store.encoders())}).",
        "![Rate-distortion curves, averages over the clips](teachers/average.svg)",
        f"Averages over the clips. {AGAINST}",
        overview(codecs),
        "Drift: PSNR of the last P frame less the mean of all P frames, in dB, at each rate point "
        "from the lowest rate; mean over clips, and the clip that loses most.",
        drift_table(codecs),
        "The anchors' averages, bpp: PSNR:",
        anchors_table(store, clips),
    ]
    for c in codecs:
        parts += section(c)
    return "\n\n".join(parts)


def section(c):
    r = c.results
    remark = "" if len(c.clips) == len(r.clips) else f" {len(r.clips)} clips are not all measured."
    return [
        f"## {r.name}",
        f"{r.codec}, preset {r.preset}; I frames {i_frames(r)}; {r.bits} bits; {len(c.clips)} "
        f"clips.{remark} `{r.command}`",
        f"![Rate-distortion curves of {r.name}, by clip](teachers/{r.name}.svg)",
        "Last P frame: its PSNR less the mean of all P frames. Beside: PSNR less the anchor's at "
        "the same rate.",
        *comparison(c),
    ]


def overview(codecs):
    titles = [kind.title for kind in KINDS]
    rows = []
    for c in codecs:
        curve = c.results.curve(c.clips)
        rows.append([c.results.name, *(against(c.average(t), curve) for t in titles)])
    return table(["codec", *titles], rows)


def drift_table(codecs):
    rows = []
    for c in codecs:
        pairs = [c.results.drift(*rate, c.clips) for rate in c.results.rates()]
        cells = [f"{signed(average)} (worst {signed(worst)})" for average, worst in pairs]
        rows.append([c.results.name, "; ".join(cells)])
    return table(["codec", "last P frame, dB"], rows)


def averages_plot(codecs, store):
    """All codecs and anchors over the clips that all of the codecs have."""
    clips = common(codecs)
    curves = {c.results.name: c.results.curve(clips) for c in codecs}
    anchors = {kind.title: averaged(store.known(clip, kind) for clip in clips) for kind in KINDS}
    lines = anchor_lines(anchors) + codec_lines(curves)
    return draw([(f"average of {len(clips)} clips", lines)], 1, WHOLE)


def clips_plot(c):
    """One codec beside the anchors, a panel for each clip."""
    panels = []
    for clip in c.clips:
        anchors = anchor_lines({title: curves[clip] for title, curves in c.anchors.items()})
        panels.append((clip, anchors + codec_lines({c.results.name: c.results.curve([clip])})))
    return draw(panels, min(3, len(panels)), PANEL)


def common(codecs):
    """The clips that all codecs were measured on, in their order."""
    return [clip for clip in codecs[0].clips if all(clip in c.clips for c in codecs)]
