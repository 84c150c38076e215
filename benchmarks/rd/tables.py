"""Markdown tables of a codec's results, as cards and docs/teachers.md show them."""

from dataclasses import dataclass

from rd.anchors import KINDS
from rd.curves import Point, averaged, delta, gap
from rd.project import BD_POINTS, mean
from rd.results import Results

AGAINST = (
    "BD-PSNR in dB (BD-rate in %); with a star, where there are fewer than four rate points to "
    "have these: PSNR less the anchor's at the same rate, mean over the rate points."
)


@dataclass(frozen=True)
class Compared:
    """A codec's results and the anchors' curves: by title, then by clip."""

    results: Results
    anchors: dict[str, dict[str, list[Point]]]

    @property
    def clips(self):
        """Clips that were measured at every rate, and that every anchor has."""
        known = [set(curves) for curves in self.anchors.values()]
        return [clip for clip in self.results.whole_clips() if all(clip in k for k in known)]

    def average(self, title):
        """An anchor's mean curve over the codec's clips."""
        return averaged(self.anchors[title][clip] for clip in self.clips)


def compared(results, store):
    """`results` beside the curves of a store of anchors."""
    anchors = {
        kind.title: {
            clip: curve for clip in results.clips if (curve := store.known(clip, kind)) is not None
        }
        for kind in KINDS
    }
    return Compared(results, anchors)


def table(heads, rows):
    """A markdown table, all columns but the first aligned as numbers are."""
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def rates_table(c):
    """One row a rate: the averages over clips, the drift, and the PSNR beside each anchor's."""
    heads = ["rate point", "P frames: bpp", "PSNR", "all: bpp", "PSNR"]
    heads += ["last P frame", "worst clip"]
    heads += [f"beside {title}" for title in c.anchors]
    rows = []
    curve = c.results.curve(c.clips)
    for (member, rate), point in zip(c.results.rates(), curve, strict=True):
        points = c.results.at(member, rate, c.clips)
        p_bpp, p_psnr = mean(p.p_bpp for p in points), mean(p.p_psnr for p in points)
        cells = [f"{p_bpp:.3f}", f"{p_psnr:.2f}", f"{point.bpp:.3f}", f"{point.psnr:.2f}"]
        cells += map(signed, c.results.drift(member, rate, c.clips))
        cells += [signed(gap(c.average(title), point)) for title in c.anchors]
        rows.append([c.results.label(member, rate), *cells])
    return table(heads, rows)


def bd_table(c):
    """Bjontegaard deltas of the averages over clips, one row an anchor."""
    curve = c.results.curve(c.clips)
    rows = []
    for title in c.anchors:
        found = delta(c.average(title), curve)
        rows.append([title, signed(found.psnr_db), signed(found.rate_percent, 0), found.why or ""])
    return table(["against", "BD-PSNR, dB", "BD-rate, %", "remark"], rows)


def clip_table(c):
    """`against` each anchor by clip, one column an anchor."""
    rows = []
    for clip in c.clips:
        curve = c.results.curve([clip])
        rows.append([clip, *(against(curves[clip], curve) for curves in c.anchors.values())])
    return table(["clip", *c.anchors], rows)


def comparison(c):
    """The tables of a codec beside the anchors, as paragraphs."""
    parts = [rates_table(c)]
    if len(c.results.rates()) >= BD_POINTS:
        parts.append(bd_table(c))
    return [*parts, f"By clip. {AGAINST}", clip_table(c)]


def clips_table(c):
    """Rate and PSNR of every clip, all frames, one pair of columns a rate point."""
    rates = c.results.rates()
    heads = ["clip"]
    for rate in rates:
        heads += [f"{c.results.label(*rate)}: bpp", "PSNR"]
    rows = []
    for clip in c.clips:
        pairs = [(p.bpp, p.psnr) for rate in rates for p in c.results.at(*rate, [clip])]
        rows.append([clip, *(text for b, q in pairs for text in (f"{b:.3f}", f"{q:.2f}"))])
    return table(heads, rows)


def anchors_table(store, clips):
    """The anchors' averages over clips, rate and PSNR at every second QP."""
    rows = []
    for kind in KINDS:
        curve = averaged(store.known(clip, kind) for clip in clips)
        cells = [f"{p.bpp:.3f}: {p.psnr:.2f}" for p in curve]
        rows.append([kind.title, *cells[1::2]])
    return table(["anchor, at every second QP", *["" for _ in rows[0][1:]]], rows)


def card(c):
    """All of a codec's tables, ready for its card."""
    r = c.results
    seconds = sum(p.seconds for p in r.points)
    devices = ", ".join(sorted({p.device for p in r.points}))
    frames = sorted({clip["frames"] for clip in r.clips.values()})
    frames = f"{frames[0]} to {frames[-1]}" if len(frames) > 1 else f"{frames[0]}"
    parts = [
        f"`{r.command}`",
        f"{len(c.clips)} clips, {frames} frames with one I frame ({i_frames(r)}), {r.bits} bits. "
        "bpp is bits per pixel, PSNR in dB over RGB; averages over clips. Last P frame: its PSNR "
        "less the mean of all P frames. Beside: PSNR less the anchor's at the same rate, by linear "
        "interpolation in the logarithm of the rate. "
        f"{seconds / 60:.0f} minutes ({devices}).",
    ]
    if not c.clips:
        return "\n\n".join([*parts, "No clip is measured at every rate yet."])
    parts += comparison(c)
    parts += ["By clip, all frames:", clips_table(c)]
    return "\n\n".join(parts)


def i_frames(results):
    return ", ".join(dict.fromkeys(member.intra for member in results.members))


def signed(value, digits=2):
    """A number with its sign, a real minus; a dash where there is none."""
    if value is None:
        return "–"
    # Adding 0 takes the sign from a zero.
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")


def against(anchor, curve):
    """A cell: BD-PSNR (BD-rate), or the mean gap with a star where there are no such figures."""
    found = delta(anchor, curve)
    if found.psnr_db is not None or found.rate_percent is not None:
        return f"{signed(found.psnr_db)} ({signed(found.rate_percent, 0)})"
    gaps = [gap(anchor, point) for point in curve]
    return "–" if None in gaps else f"{signed(mean(gaps))}*"
