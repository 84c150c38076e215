"""The few lines that a finished run ends with."""

from pathlib import Path

from prune.report import Report
from prune.report.cells import cell, prefixed
from prune.report.schema import RatePoint
from prune.report.tables import where


def headline(report: Report, folder: Path) -> str:
    """MACs, speed, quality and gates, and where the whole report is."""
    macs, parity = report.macs.decoder, report.parity
    dense, sparse = (cell(macs, side, _in_macs).text for side in ("dense", "sparse"))
    lines = [
        f"decoder: {dense} -> {sparse} a frame of "
        f"{report.macs.width}x{report.macs.height} ({macs.reduction:.1%} fewer)"
    ]
    for row in report.latency:
        if row.speedup:
            lines.append(
                f"speed:   {row.speedup.median:.2f}x on {where(row)} (p10 {row.speedup.p10:.2f}, "
                f"p90 {row.speedup.p90:.2f})"
            )
    for entry in report.quality:
        lines += [line for point in entry.points if (line := _quality(entry.dataset, point))]
        if entry.bd_psnr_db is not None and entry.bd_rate_percent is not None:
            lines.append(
                f"quality: {entry.dataset}: BD-PSNR {entry.bd_psnr_db:+.2f} dB, "
                f"BD-rate {entry.bd_rate_percent:+.1f} %"
            )
    lines.append(
        f"gates:   masked = shrunk to {parity.masked_vs_shrunk:.1e}, "
        f"torch = onnxruntime to {parity.torch_vs_onnx:.1e}"
    )
    lines.append(f"report:  {folder / 'report.html'}")
    return "\n".join(lines)


def _in_macs(count: float) -> str:
    return prefixed(count, "MAC")


def _quality(dataset: str, point: RatePoint) -> str | None:
    """A rate point's PSNR and rate, dense and sparse; None where one of them is unknown."""
    dense, sparse = point.dense, point.sparse
    if dense.psnr is None or sparse.psnr is None or dense.bpp is None or sparse.bpp is None:
        return None
    at = "" if point.rate is None else f", rate {point.rate:g}"
    return (
        f"quality: {dataset}{at}: {dense.psnr:.2f} -> {sparse.psnr:.2f} "
        f"dB ({sparse.psnr - dense.psnr:+.2f}), {dense.bpp:.4f} -> {sparse.bpp:.4f} bpp "
        f"({sparse.bpp - dense.bpp:+.4f})"
    )
