"""Runs side by side, a column per run and a row per figure: `python -m prune.compare RUN ...`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune.report.cells import Cell, ReportTable, cell, missing, prefixed, signed
from prune.report.headlines import bpp_gained, devices, psnr_lost, setting_words, why_unknown
from prune.report.schema import REPORT_NAME, Part, Quality, Report
from prune.report.tables import conditions, gate, ratio, where

ABSENT = Cell("–", "missing")  # the other runs have this figure, this one does not


def run_names(runs: Sequence[str]) -> list[str]:
    """The runs' folder names, with as much of the path before them as tells them apart."""
    folders = []
    for run in runs:
        path = Path(run).resolve()
        folders.append(path.parent if path.name == REPORT_NAME else path)
    deepest = max(len(folder.parts) for folder in folders)
    for depth in range(1, deepest + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names


def comparison(names: Sequence[str], reports: Sequence[Report]) -> ReportTable:
    """A row per figure that any of the runs has, a column per run."""
    columns = [figures(report) for report in reports]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    # Every run has the same figures in the same order; only what they were measured with differs.
    order = list(dict.fromkeys(figure for figure, _ in columns[0]))
    keys.sort(key=lambda key: order.index(key[0]))
    rows = [
        (
            Cell(f"{figure} ({scope})" if scope else figure),
            *(column.get((figure, scope), ABSENT) for column in columns),
        )
        for figure, scope in keys
    ]
    return ReportTable(("", *names), rows)


def figures(report: Report) -> dict[tuple[str, str], Cell]:
    """One run's cells by (figure, what it was measured with): runs share the rows that agree."""
    found = {("codec", ""): Cell(report.codec), ("preset", ""): Cell(report.preset)}
    for key in ("method", "budget"):
        value = report.setting("prune", key)
        found[key, ""] = (
            missing("not in the recipe") if value is None else Cell(setting_words(value))
        )
    return (
        found
        | _compute(report)
        | _speedups(report)
        | _quality(report)
        | {
            ("masked against shrunk", ""): gate(report, "masked_vs_shrunk"),
            ("torch against onnxruntime", ""): gate(report, "torch_vs_onnx"),
            ("device", ""): Cell(", ".join(devices(report)) or "–"),
            ("created", ""): Cell(report.created),
        }
    )


def _compute(report: Report) -> dict[tuple[str, str], Cell]:
    macs, parameters = report.macs.decoder, report.parameters
    size = f"{report.macs.width}×{report.macs.height}"
    return {
        ("decoder MACs, dense", size): cell(macs, "dense", lambda n: prefixed(n, "MAC")),
        ("decoder MACs, sparse", size): cell(macs, "sparse", lambda n: prefixed(n, "MAC")),
        ("decoder MACs cut", size): cell(macs, "reduction", lambda r: f"{100 * r:.1f} %"),
        ("decoder parameters, dense", ""): cell(parameters.decoder, "dense", _plain),
        ("decoder parameters, sparse", ""): cell(parameters.decoder, "sparse", _plain),
        ("all parameters, dense", ""): cell(parameters.total, "dense", _plain),
        ("all parameters, sparse", ""): cell(parameters.total, "sparse", _plain),
    }


def _plain(count: int) -> str:
    return prefixed(count, "")


def _speedups(report: Report) -> dict[tuple[str, str], Cell]:
    if not report.latency:
        return {("speed-up", ""): missing(report.reason("latency"))}
    scopes = _distinct([(where(row), row.device) for row in report.latency])
    return {
        ("speed-up", scope): cell(row, "speedup", ratio)
        for scope, row in zip(scopes, report.latency, strict=True)
    }


def _quality(report: Report) -> dict[tuple[str, str], Cell]:
    """The quality figures; those of a run without any are one cell each that says why."""
    names = ("evaluated", "PSNR lost", "bpp gained", "BD-PSNR", "BD-rate")
    if not report.quality:
        return {(name, ""): missing(report.reason("quality")) for name in names}
    scopes = _distinct(
        [(e.dataset, f"{e.intra}, {e.bits or 'estimated'} bits") for e in report.quality]
    )
    found: dict[tuple[str, str], Cell] = {}
    for scope, entry in zip(scopes, report.quality, strict=True):
        lost, gained = psnr_lost(entry), bpp_gained(entry)
        cells = (
            Cell(conditions(entry)),
            missing(why_unknown(entry, "psnr"))
            if lost is None
            else Cell(f"{signed(lost, 3).removeprefix('+')} dB"),
            missing(why_unknown(entry, "bpp"))
            if gained is None
            else Cell(f"{signed(gained[0], 4)} ({signed(gained[1], 1)} %)"),
            cell(entry, "bd_psnr_db", lambda v: f"{signed(v, 3)} dB"),
            cell(entry, "bd_rate_percent", lambda v: f"{signed(v, 2)} %"),
        )
        found |= {(name, scope): shown for name, shown in zip(names, cells, strict=True)}
    return found


def _distinct(scopes: Sequence[tuple[str, str]]) -> list[str]:
    """Each scope's first text, with the second where the first alone is not unique."""
    firsts = [first for first, _ in scopes]
    found: list[str] = []
    for first, second in scopes:
        name = first if firsts.count(first) == 1 else f"{first}, {second}"
        while name in found:
            name += ", again"
        found.append(name)
    return found


def summary(report: Report) -> dict[str, Any]:
    """The figures of `comparison` as plain data; a null has its reason in a `why` beside it."""
    return {
        "codec": report.codec,
        "preset": report.preset,
        "method": report.setting("prune", "method"),
        "budget": report.setting("prune", "budget"),
        "created": report.created,
        "devices": devices(report),
        "decoder_macs": _data(report.macs.decoder, "by_module")
        | {"height": report.macs.height, "width": report.macs.width},
        "parameters": _data(report.parameters),
        "latency": [_data(row, "breakdown") for row in report.latency],
        "quality": [_quality_data(entry) for entry in report.quality],
        "parity": _data(report.parity),
        "why": report.why or {},
    }


def _data(part: Part, *without: str) -> dict[str, Any]:
    return part.model_dump(exclude=set(without))


def _quality_data(entry: Quality) -> dict[str, Any]:
    gained = bpp_gained(entry) or (None, None)
    derived = {
        "psnr_lost_db": psnr_lost(entry),
        "bpp_gained": gained[0],
        "bpp_gained_percent": gained[1],
    }
    why = {
        name: why_unknown(entry, "psnr" if name == "psnr_lost_db" else "bpp")
        for name, value in derived.items()
        if value is None
    }
    for name in ("bd_psnr_db", "bd_rate_percent"):
        if getattr(entry, name) is None:
            why[name] = entry.reason(name) or ""
    known = _data(entry, "points", "clips_detail", "anchors", "why")
    return known | derived | ({"why": why} if why else {})
