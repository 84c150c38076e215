"""The pages of a report: report.md, and report.html, which needs no network and no other file."""

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from lvc.files import atomic_write
from prune.report import cells, charts, headlines, tables
from prune.report.pictures import Picture, Pictures, strips
from prune.report.schema import REPORT_NAME, Report

__all__ = ["Picture", "Pictures", "write_report"]

MOST_BARS = 16


def write_report(report: Report, folder: Path, pictures: Pictures | None = None) -> None:
    """Write report.html, report.md and report.json into `folder`, each whole or not at all.

    `pictures` are shown in the HTML, downscaled to 640 pixels in width.
    """
    shown, left_out = strips(pictures or [])
    html = _html(report, shown, left_out)
    markdown = _markdown(report)
    atomic_write(Path(folder) / "report.html", html)
    atomic_write(Path(folder) / "report.md", markdown)
    # Last, since who finds a report.json may take the run for finished.
    atomic_write(Path(folder) / REPORT_NAME, report.to_json())


def _html(report: Report, shown: list, left_out: int) -> str:
    template = environment(html=True).get_template("report.html.j2")
    return template.render(
        **_facts(report),
        module_bars=_module_bars(report),
        channel_bars=_channel_bars(report),
        latency_bars=_latency_bars(report),
        rate_distortion=[charts.rate_distortion(entry) for entry in report.quality],
        curves=_curves(report),
        strips=shown,
        left_out=left_out,
    )


def _markdown(report: Report) -> str:
    return environment(html=False).get_template("report.md.j2").render(**_facts(report))


def environment(html: bool) -> Environment:
    """The templates of this folder, those of HTML or of Markdown."""
    found = Environment(
        loader=PackageLoader("prune", "report"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"md": cells.markdown_text, "table": cells.markdown}
    return found


def _facts(report: Report) -> dict[str, Any]:
    recipe = yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True)
    return {
        "report": report,
        "tables": tables,
        "headlines": headlines,
        "recipe": recipe,
        # Longer than any fence in the recipe itself.
        "fence": "`" * max(3, *(1 + len(run) for run in re.findall("`+", recipe)), 3),
    }


def _module_bars(report: Report) -> str | None:
    modules = {
        name: (pair.dense, pair.sparse)
        for name, pair in report.macs.decoder.by_module.items()
        if pair.dense is not None and pair.sparse is not None
    }
    return _bars(modules, "MAC")


def _channel_bars(report: Report) -> str | None:
    return _bars(tables.channels_by_module(report), None)


def _bars(counts: dict[str, tuple[int, int]], unit: str | None) -> str | None:
    """The largest modules as bars; what is beyond the chart's length is added up in a last one."""
    largest = sorted(counts.items(), key=lambda item: -item[1][0])
    head, tail = largest[:MOST_BARS], largest[MOST_BARS:]
    if tail:
        dense, sparse = (sum(pair[side] for _, pair in tail) for side in (0, 1))
        head.append((f"{len(tail)} more", (dense, sparse)))
    if not head:
        return None
    top = max(max(pair) for _, pair in head)

    def note(count: int) -> str:
        return f"{count:,}" if unit is None else cells.prefixed(count, unit, top)

    return charts.paired_bars(
        [charts.Bars(name, *pair, (note(pair[0]), note(pair[1]))) for name, pair in head]
    )


def _latency_bars(report: Report) -> str | None:
    rows = [
        charts.latency_bars(tables.where(row), row.dense_ms, row.sparse_ms)
        for row in report.latency
        if row.dense_ms and row.sparse_ms
    ]
    return charts.paired_bars(rows) if rows else None


def _curves(report: Report) -> dict[str, str]:
    """The training charts that have values, by title."""
    wanted = {
        "Loss": (("loss",), "loss"),
        "PSNR": (("psnr",), "dB"),
        "Rate": (("bpp",), "bits per pixel"),
        "Kept share of the MACs, budget and gradient decay β": (
            ("keep", "budget", "beta"),
            "share",
        ),
    }
    drawn = {
        title: charts.training(report.training, fields, label)
        for title, (fields, label) in wanted.items()
    }
    return {title: svg for title, svg in drawn.items() if svg}
