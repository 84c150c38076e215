"""The headline figures that a run is judged by, and what a reader must know before them."""

from dataclasses import dataclass
from datetime import datetime

from prune.report.cells import Cell, cell, prefixed, signed
from prune.report.schema import Quality, Report
from prune.report.tables import gates, where


@dataclass(frozen=True)
class Headline:
    label: str
    value: Cell
    note: str


def about(report: Report) -> list[str]:
    """The run in a few words each: the method, the budget, when, on what."""
    settings = {key: report.setting("prune", key) for key in ("method", "budget")}
    plain = [f"{k} {setting_words(v)}" for k, v in settings.items() if v is not None]
    when = datetime.fromisoformat(report.created).strftime("%Y-%m-%d %H:%M %Z").strip()
    return [*plain, when, *devices(report)]


def setting_words(value: object) -> str:
    """A setting as it is written in a recipe, a section without what is not set."""
    if isinstance(value, dict):
        return " ".join(f"{k} {v}" for k, v in value.items() if v is not None)
    return str(value)


def devices(report: Report) -> list[str]:
    """The devices of the latency rows, or else those of the environment."""
    found = dict.fromkeys(row.device for row in report.latency)
    return list(found) or [d for d in (report.environment.cpu, report.environment.gpu) if d]


def warnings(report: Report) -> list[str]:
    """Warnings to read first: the gates that failed, then the run's own warnings."""
    failed = [row for row in gates(report).rows if row[-1].tone == "bad"]
    return [
        *(
            f"{name.text}: deviation {measured.text} is over the tolerance of {limit.text}; "
            "the sparse figures may not be those of the codec that was trained."
            for name, measured, limit, _ in failed
        ),
        *report.warnings,
    ]


def headlines(report: Report) -> list[Headline]:
    """A few figures to judge the run by; quality is that of the first data set."""
    found = [_macs_cut(report), _speedup(report), *_against_eager(report)]
    if not report.quality:
        unknown, note = Cell("not measured", "missing"), report.reason("quality") or ""
        return [
            *found,
            *(Headline(name, unknown, note) for name in ("PSNR lost", "Bits per pixel", "BD-PSNR")),
        ]
    return [*found, *_quality_headlines(report.quality[0])]


def _macs_cut(report: Report) -> Headline:
    macs = report.macs.decoder
    if macs.reduction is None:
        return _unknown("Decoder MACs cut", macs.reason("reduction"))
    dense, sparse = (cell(macs, side, lambda n: prefixed(n, "MAC")) for side in ("dense", "sparse"))
    note = f"{dense.text} to {sparse.text} per {report.macs.width}×{report.macs.height} frame"
    return Headline("Decoder MACs cut", Cell(f"{100 * macs.reduction:.1f} %"), note)


def _speedup(report: Report) -> Headline:
    if not report.latency:
        return _unknown("Speed-up", report.reason("latency"))
    row = report.latency[0]
    if row.speedup is None:
        return _unknown("Speed-up", row.reason("speedup"))
    return Headline("Speed-up", Cell(f"{row.speedup.median:.2f}×"), where(row))


def _against_eager(report: Report) -> list[Headline]:
    """The sparse decoder where it is fastest, against the dense one as it is run before: by torch.

    Medians of different runs on one processor, one behind the other, and no paired ratio.
    """
    eager = next((row for row in report.latency if "eager" in row.runtime and row.dense_ms
                  and row.precision == "fp32"), None)  # fmt: skip
    if eager is None or eager.dense_ms is None:
        return []
    rows = [(row.sparse_ms.median, row) for row in report.latency
            if row.sparse_ms and row.sparse_ms.median and row.device == eager.device]  # fmt: skip
    if not rows:
        return []
    least, fastest = min(rows, key=lambda pair: pair[0])
    note = f"sparse with {fastest.runtime}, {fastest.precision}"
    label = "Against the dense codec in torch"
    return [Headline(label, Cell(f"{eager.dense_ms.median / least:.2f}×"), note)]


def _quality_headlines(entry: Quality) -> list[Headline]:
    lost, bits = psnr_lost(entry), bpp_gained(entry)
    if lost is None:
        psnr = _unknown("PSNR lost", why_unknown(entry, "psnr"))
    else:
        count, total = len(known(entry, "psnr")), len(entry.points)
        averaged = f"{count}" if count == total else f"{count} of {total}"
        scope = f"mean of {averaged} rate points, " if total > 1 else ""
        value = f"{signed(lost, 2).removeprefix('+')} dB"
        psnr = Headline("PSNR lost", Cell(value), scope + entry.dataset)
    if bits is None:
        rate = _unknown("Bits per pixel", why_unknown(entry, "bpp"))
    else:
        value = f"{signed(bits[1], 1)} %"
        rate = Headline("Bits per pixel", Cell(value), f"{signed(bits[0], 4)} bpp")
    if entry.bd_psnr_db is None:
        return [psnr, rate, _unknown("BD-PSNR", entry.reason("bd_psnr_db"))]
    note = cell(entry, "bd_rate_percent", lambda v: f"BD-rate {signed(v, 1)} %").text
    return [psnr, rate, Headline("BD-PSNR", Cell(f"{signed(entry.bd_psnr_db, 2)} dB"), note)]


def _unknown(label: str, reason: str | None) -> Headline:
    return Headline(label, Cell("not measured", "missing"), reason or "")


# Means over the rate points


def known(entry: Quality, field: str) -> list[tuple[float, float]]:
    """(dense, sparse) of every rate point at which both were measured."""
    pairs = [(getattr(p.dense, field), getattr(p.sparse, field)) for p in entry.points]
    return [(d, s) for d, s in pairs if d is not None and s is not None]


def psnr_lost(entry: Quality) -> float | None:
    """Dense - sparse in dB, averaged over the rate points where both are known."""
    pairs = known(entry, "psnr")
    return sum(d - s for d, s in pairs) / len(pairs) if pairs else None


def bpp_gained(entry: Quality) -> tuple[float, float] | None:
    """Sparse - dense in bits per pixel, and in percent of dense, averaged over the rate points."""
    pairs = [(d, s) for d, s in known(entry, "bpp") if d > 0]
    if not pairs:
        return None
    gained = sum(s - d for d, s in pairs) / len(pairs)
    return gained, 100 * sum(s / d - 1 for d, s in pairs) / len(pairs)


def why_unknown(entry: Quality, field: str) -> str:
    """The reason that a mean over the rate points does not exist."""
    reasons = (part.reason(field) for point in entry.points for part in (point.dense, point.sparse))
    return next((reason for reason in reasons if reason), "no rate points")
