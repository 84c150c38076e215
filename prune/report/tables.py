"""The facts of a report as text: headline figures and tables, the same for pages and terminals."""

from prune.report.cells import (
    MINUS,
    Cell,
    ReportTable,
    cell,
    digits,
    missing,
    prefixed,
    signed,
    words,
)
from prune.report.schema import (
    PARITY_TOLERANCE,
    AnchorPoint,
    Latency,
    Pair,
    Prediction,
    Quality,
    Quantiles,
    Report,
)
from vcodecs.parts import module_of

# Compute


def change(pair: Pair) -> Cell:
    """The change from dense to sparse in percent."""
    if pair.dense is None or pair.sparse is None:
        return missing(None)
    return Cell(f"{signed(100 * (pair.sparse / pair.dense - 1), 1)} %" if pair.dense else "0.0 %")


def pair_row(name: str, pair: Pair, unit: str, largest: float | None = None) -> tuple[Cell, ...]:
    largest = largest or max(pair.dense or 0, pair.sparse or 0)
    shown = [cell(pair, side, lambda n: prefixed(n, unit, largest)) for side in ("dense", "sparse")]
    return (Cell(name), *shown, change(pair))


def rate_name(rate: float | None) -> str:
    return "fixed" if rate is None else str(rate)


def milliseconds(spread: Quantiles) -> str:
    return f"{digits(spread.median)} ({digits(spread.p10)} to {digits(spread.p90)})"


def ratio(spread: Quantiles) -> str:
    return f"{spread.median:.2f}× ({spread.p10:.2f} to {spread.p90:.2f})"


def totals(report: Report) -> ReportTable:
    macs, parameters = report.macs, report.parameters
    rows = [
        pair_row("Decoder, per frame", macs.decoder, "MAC"),
        pair_row("Encoder, per frame", macs.encoder, "MAC"),
        pair_row("Decoder, parameters", parameters.decoder, ""),
        pair_row("Whole codec, parameters", parameters.total, ""),
    ]
    if macs.onnx:
        rows.insert(1, pair_row("Decoder, counted on its ONNX graphs", macs.onnx, "MAC"))
    return ReportTable(("", "Dense", "Sparse", "Change"), rows)


def modules(report: Report) -> ReportTable:
    by_module = report.macs.decoder.by_module
    largest = max((pair.dense or 0 for pair in by_module.values()), default=0)
    rows = [pair_row(name, pair, "MAC", largest) for name, pair in by_module.items()]
    return ReportTable(("Module", "Dense", "Sparse", "Change"), rows)


def channels_by_module(report: Report) -> dict[str, tuple[int, int]]:
    """Output channels (dense, sparse) of each module's layers; modules as for the MACs."""
    known = report.macs.decoder.by_module
    counts: dict[str, tuple[int, int]] = {}
    for layer, pair in (report.channels.by_layer if report.channels else {}).items():
        home = module_of(layer, known) or layer.split(".")[0]
        if pair.dense is not None and pair.sparse is not None:
            dense, sparse = counts.get(home, (0, 0))
            counts[home] = (dense + pair.dense, sparse + pair.sparse)
    return counts


def groups(report: Report) -> ReportTable:
    rows = [
        words(
            group.name,
            ", ".join(group.layers),
            group.dense,
            group.sparse,
            f"{100 * group.sparse / group.dense:.0f} %" if group.dense else "0 %",
        )
        for group in (report.channels.groups if report.channels else [])
    ]
    return ReportTable(("Group", "Layers", "Dense", "Sparse", "Kept"), rows, words=2)


# Latency


def where(row: Latency) -> str:
    """The setting of a latency's measurement, in a line."""
    provider = row.provider.removesuffix("ExecutionProvider")
    threads = "" if row.threads is None else f", {row.threads} thread{'s' * (row.threads != 1)}"
    return f"{row.runtime}, {provider}{threads}, {row.precision}, {row.width}×{row.height}"


def latency(report: Report) -> ReportTable:
    rows = [
        (
            Cell(where(row)),
            cell(row, "dense_ms", milliseconds),
            cell(row, "sparse_ms", milliseconds),
            cell(row, "speedup", ratio),
            Cell(str(row.runs)),
            Cell(row.device),
        )
        for row in report.latency
    ]
    header = ("Measured with", "Dense, ms", "Sparse, ms", "Speed-up", "Runs", "Device")
    return ReportTable(header, rows)


def prediction(expected: Prediction) -> ReportTable:
    """A budget in time: predicted against measured, and how far apart they are."""

    def row(side: str, predicted: float, measured: float | None) -> tuple[Cell, ...]:
        apart = (
            "not measured" if not measured else f"{signed(100 * (predicted / measured - 1), 1)} %"
        )
        shown = cell(expected, f"measured_{side}_ms", digits)
        return Cell(side), Cell(digits(predicted)), shown, Cell(apart)

    rows = [
        row("dense", expected.dense_ms, expected.measured_dense_ms),
        row("sparse", expected.sparse_ms, expected.measured_sparse_ms),
    ]
    return ReportTable(("Decoder", "Predicted, ms", "Measured, ms", "Off by"), rows)


def breakdown(row: Latency) -> ReportTable:
    rows = [
        (Cell(graph.name), cell(graph, "dense_ms", digits), cell(graph, "sparse_ms", digits))
        for graph in row.breakdown
    ]
    return ReportTable(("Graph", "Dense, ms", "Sparse, ms"), rows)


# Quality


def conditions(entry: Quality) -> str:
    clips = "1 clip" if entry.clips == 1 else f"{entry.clips} clips"
    bits = f", {entry.bits} bits" if entry.bits else ""
    return f"{clips} of {entry.frames} frames, I frames by {entry.intra}{bits}"


def bd(entry: Quality) -> ReportTable:
    """The Bjøntegaard differences of sparse against dense."""
    rows = [
        (Cell("BD-PSNR"), cell(entry, "bd_psnr_db", lambda v: f"{signed(v, 3)} dB")),
        (Cell("BD-rate"), cell(entry, "bd_rate_percent", lambda v: f"{signed(v, 2)} %")),
    ]
    return ReportTable(("Sparse against dense", "Difference"), rows)


def rate_points(entry: Quality) -> ReportTable:
    sides = ("dense", "sparse")
    rows = [
        (
            Cell(rate_name(point.rate)),
            *(cell(getattr(point, side), "bpp", lambda v: f"{v:.4f}") for side in sides),
            *(cell(getattr(point, side), "psnr", lambda v: f"{v:.2f}") for side in sides),
            *(cell(getattr(point, side), "ms_ssim", lambda v: f"{v:.4f}") for side in sides),
        )
        for point in entry.points
    ]
    header = ("Rate", "bpp dense", "bpp sparse", "PSNR dense, dB", "PSNR sparse, dB")
    return ReportTable((*header, "MS-SSIM dense", "MS-SSIM sparse"), rows)


def clips(entry: Quality) -> ReportTable:
    rows = [
        (
            Cell(point.clip),
            Cell(rate_name(point.rate)),
            cell(point.dense, "psnr", lambda v: f"{v:.2f}"),
            cell(point.sparse, "psnr", lambda v: f"{v:.2f}"),
            cell(point, "psnr_lost_db", lambda v: signed(v, 2)),
            cell(point.dense, "bpp", lambda v: f"{v:.4f}"),
            cell(point.sparse, "bpp", lambda v: f"{v:.4f}"),
            cell(point, "bpp_gained", lambda v: signed(v, 4)),
        )
        for point in entry.clips_detail
    ]
    header = ("Clip", "Rate", "PSNR dense, dB", "PSNR sparse, dB", "PSNR lost, dB")
    return ReportTable((*header, "bpp dense", "bpp sparse", "bpp gained"), rows, words=2)


def anchors(entry: Quality) -> ReportTable:
    rows = [
        words(_at_qp(anchor), f"{anchor.bpp:.4f}", f"{anchor.psnr:.2f}")
        for anchor in entry.anchors or []
    ]
    return ReportTable(("Anchor", "bpp", "PSNR, dB"), rows)


def _at_qp(anchor: AnchorPoint) -> str:
    return anchor.codec if anchor.qp is None else f"{anchor.codec}, QP {anchor.qp}"


# Gates, environment, headline


def gate(report: Report, field: str) -> Cell:
    """A parity figure, good or bad by its tolerance."""
    shown = cell(report.parity, field, lambda v: f"{v:.1e}".replace("-", MINUS))
    value = getattr(report.parity, field)
    if value is None:
        return shown
    return Cell(shown.text, "good" if value <= PARITY_TOLERANCE[field] else "bad")


def gates(report: Report) -> ReportTable:
    verdicts = {"good": "passed", "bad": "failed", "missing": "not measured"}
    names = {
        "masked_vs_shrunk": "Masked against shrunk network",
        "torch_vs_onnx": "torch against onnxruntime",
    }
    rows: list[tuple[Cell, ...]] = []
    for field, name in names.items():
        measured = gate(report, field)
        limit = f"{PARITY_TOLERANCE[field]:.0e}".replace("-", MINUS)
        plain = Cell(measured.text, "missing" if measured.tone == "missing" else "")
        rows.append((Cell(name), plain, Cell(limit), Cell(verdicts[measured.tone], measured.tone)))
    if count := report.parity.decoded_frames:
        each = ("Frames coded with torch, decoded by onnxruntime", f"{count} of {count}", "all")
        rows.append((*map(Cell, each), Cell("passed", "good")))
    return ReportTable(("Gate", "Largest relative deviation", "Tolerance", "Verdict"), rows)


def environment(report: Report) -> ReportTable:
    names = {"leanvc": "leanvc", "commit": "Commit", "python": "Python", "torch": "torch"}
    rows = [
        (Cell(name), cell(report.environment, field, str))
        for field, name in (names | {"cpu": "CPU"}).items()
    ]
    return ReportTable(("", ""), [*rows, words("GPU", report.environment.gpu or "none")], words=2)


def times(report: Report) -> ReportTable:
    rows = [words(step, duration(seconds)) for step, seconds in report.times.items()]
    return ReportTable(("Step", "Time"), rows)


def training(report: Report) -> ReportTable:
    """Each stage by its last logged values."""
    fields = ("loss", "psnr", "bpp", "keep", "budget")
    rows = []
    for curve in report.training:
        last = {name: [v for v in getattr(curve, name) if v is not None][-1:] for name in fields}
        shown = (digits(value[0]) if value else "not logged" for value in last.values())
        rows.append(words(curve.stage, curve.step[-1] if curve.step else "none", *shown))
    header = ("Stage", "Last step", "Loss", "PSNR, dB", "bpp", "Kept share", "Budget")
    return ReportTable(header, rows)


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
