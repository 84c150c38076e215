"""The few lines that a finished run ends with."""

from pathlib import Path

from prune.report import Report
from prune.report.cells import prefixed
from prune.report.tables import where


def headline(report: Report, folder: Path) -> str:
    """MACs, speed, quality and gates, and where the whole report is."""
    macs, parity = report.macs.decoder, report.parity
    lines = [
        f"decoder: {prefixed(macs.dense, 'MAC')} -> {prefixed(macs.sparse, 'MAC')} a frame of "
        f"{report.macs.width}x{report.macs.height} ({macs.reduction:.1%} fewer)"
    ]
    for row in report.latency:
        if row.speedup:
            lines.append(
                f"speed:   {row.speedup.median:.2f}x on {where(row)} (p10 {row.speedup.p10:.2f}, "
                f"p90 {row.speedup.p90:.2f})"
            )
    for entry in report.quality:
        for point in entry.points:
            lost, gained = point.dense.psnr - point.sparse.psnr, point.sparse.bpp - point.dense.bpp
            at = "" if point.rate is None else f", rate {point.rate:g}"
            lines.append(
                f"quality: {entry.dataset}{at}: {point.dense.psnr:.2f} -> {point.sparse.psnr:.2f} "
                f"dB ({-lost:+.2f}), {point.dense.bpp:.4f} -> {point.sparse.bpp:.4f} bpp "
                f"({gained:+.4f})"
            )
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
