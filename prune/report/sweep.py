"""The report over a sweep's runs: what quality and bits cost in MACs and time, run by run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from lvc.files import atomic_write
from prune.report import cells, charts
from prune.report.cells import Cell, Table, prefixed, signed
from prune.report.headlines import bpp_gained, devices, psnr_lost
from prune.report.render import environment
from prune.report.schema import Latency, Quality, Report
from prune.report.tables import duration, milliseconds, where

NAME = "sweep"
TONES = {"done": "good", "failed": "bad", "interrupted": "missing", "not run yet": "missing"}
SEED = "seed"


@dataclass(frozen=True)
class Row:
    """A run: the settings that vary as they were written, its state, and where it is not done the
    last line that it told."""

    name: str
    values: dict[str, str]
    state: str
    line: str
    report: Report | None


@dataclass(frozen=True)
class Measure:
    """A figure of a run: its value for charts and means, and how it is written.

    `better`: -1 where less is better, 1 where more is.
    """

    title: str
    value: Callable[[Report], float | None]
    text: Callable[[float], str]
    better: int = -1


@dataclass(frozen=True)
class DataSet:
    """Tables and charts of one evaluated data set."""

    title: str
    runs: Table
    seeds: Table | None
    charts: list[tuple[str, str]]


def write_sweep(rows: Sequence[Row], varied: Sequence[str], title: str, folder: Path) -> None:
    """Write sweep.html and sweep.md into `folder`, each whole or not at all."""
    done = sum(row.report is not None for row in rows)
    facts: dict[str, Any] = {
        "title": title,
        "about": [f"{done} of {len(rows)} runs done", ", ".join(varied), *_devices(rows)],
        "undone": undone(rows),
        "sets": [_data_set(name, rows, varied) for name in _data_sets(rows)],
    }
    for form in ("html", "md"):
        text = environment(html=form == "html").get_template(f"sweep.{form}.j2").render(**facts)
        atomic_write(folder / f"{NAME}.{form}", text)


def undone(rows: Sequence[Row]) -> Table | None:
    """Runs without a result, with the last line of each; None where all have one."""
    left = [row for row in rows if row.report is None]
    if not left:
        return None
    return Table(
        ("Run", "State", "Last line"),
        [(Cell(row.name), Cell(row.state, TONES[row.state]), Cell(row.line)) for row in left],
        words=3,
    )


def _data_set(name: str, rows: Sequence[Row], varied: Sequence[str]) -> DataSet:
    measures = _measures(name, [row.report for row in rows if row.report])
    quality, costs = measures[:2], measures[2:]
    drawn = [
        (f"{good.title} against {cost.title}", svg)
        for good in quality
        for cost in costs
        if (svg := _pareto(rows, good, cost))
    ]
    return DataSet(
        name,
        _run_table(rows, varied, name, measures),
        _seed_table(rows, varied, measures) if SEED in varied else None,
        drawn,
    )


# ---------------------------------------------------------------------- measures


def _measures(dataset: str, reports: Sequence[Report]) -> list[Measure]:
    """Decibels, bits, MACs and time; the last two as parts of the dense decoder's."""
    entries = [entry for report in reports if (entry := _entry(report, dataset))]
    curves = all(e.bd_psnr_db is not None and e.bd_rate_percent is not None for e in entries)
    if curves:
        db = Measure("BD-PSNR, dB", lambda r: _of(r, dataset, _bd_psnr), _decibels, better=1)
        bits = Measure("BD-rate, %", lambda r: _of(r, dataset, _bd_rate), _percent)
    else:
        db = Measure("PSNR, dB", lambda r: _of(r, dataset, _psnr_gained), _decibels, better=1)
        bits = Measure("bits, %", lambda r: _of(r, dataset, _bits_gained), _percent)
    row = _shared_latency(reports)
    return [
        db,
        bits,
        Measure("decoder MACs, % of dense", _macs_left, _share),
        Measure("decoder time, % of dense", lambda r: _time_left(r, row), _share),
    ]


def _entry(report: Report, dataset: str) -> Quality | None:
    return next((entry for entry in report.quality if entry.dataset == dataset), None)


def _of(report: Report, dataset: str, figure: Callable[[Quality], float | None]) -> float | None:
    entry = _entry(report, dataset)
    return figure(entry) if entry else None


def _bd_psnr(entry: Quality) -> float | None:
    return entry.bd_psnr_db


def _bd_rate(entry: Quality) -> float | None:
    return entry.bd_rate_percent


def _psnr_gained(entry: Quality) -> float | None:
    lost = psnr_lost(entry)
    return None if lost is None else -lost


def _bits_gained(entry: Quality) -> float | None:
    gained = bpp_gained(entry)
    return None if gained is None else gained[1]


def _macs_left(report: Report) -> float | None:
    reduction = report.macs.decoder.reduction
    return None if reduction is None else 100 * (1 - reduction)


def _time_left(report: Report, row: str | None) -> float | None:
    """By the paired speed-up: machines and their load fall out of it."""
    found = _latency(report, row)
    return 100 / found.speedup.median if found and found.speedup else None


def _latency(report: Report, row: str | None) -> Latency | None:
    return next((latency for latency in report.latency if where(latency) == row), None)


def _shared_latency(reports: Sequence[Report]) -> str | None:
    """The first way of timing that all runs have."""
    found = [[where(row) for row in report.latency if row.speedup] for report in reports]
    shared = [name for name in (found[0] if found else []) if all(name in f for f in found)]
    return shared[0] if shared else None


def _decibels(value: float) -> str:
    return signed(value, 2)


def _percent(value: float) -> str:
    return signed(value, 1)


def _share(value: float) -> str:
    return f"{value:.1f}"


# ---------------------------------------------------------------------- tables


def _run_table(
    rows: Sequence[Row], varied: Sequence[str], dataset: str, measures: Sequence[Measure]
) -> Table:
    timed = _shared_latency([row.report for row in rows if row.report])
    header = (
        "Run", *varied, *(_heading(measure) for measure in measures), "MACs",
        f"ms ({timed})" if timed else "ms", "Whole run",
    )  # fmt: skip
    shown = []
    for row in rows:
        if row.report is None:
            continue
        latency = _latency(row.report, timed)
        macs = row.report.macs.decoder.sparse
        shown.append(
            (
                Cell(row.name, link=quote(f"{row.name}/report.html")),
                *(Cell(row.values[key]) for key in varied),
                *(_figure(measure, [row.report]) for measure in measures),
                cells.missing(None) if macs is None else Cell(prefixed(macs, "MAC")),
                Cell(milliseconds(latency.sparse_ms))
                if latency and latency.sparse_ms
                else cells.missing(None),
                Cell(duration(sum(row.report.times.values()))),
            )
        )
    return Table(header, shown, words=1 + len(varied))


def _seed_table(
    rows: Sequence[Row], varied: Sequence[str], measures: Sequence[Measure]
) -> Table | None:
    """Means over the seeds, with the least and the largest; None where each has one run."""
    keys = [key for key in varied if key != SEED]
    settings: dict[tuple[str, ...], list[Report]] = {}
    for row in rows:
        if row.report:
            settings.setdefault(tuple(row.values[k] for k in keys), []).append(row.report)
    if all(len(reports) == 1 for reports in settings.values()):
        return None
    header = (*keys, "Seeds", *(_heading(measure) for measure in measures))
    shown = [
        (
            *map(Cell, values),
            Cell(str(len(reports))),
            *(_figure(measure, reports) for measure in measures),
        )
        for values, reports in settings.items()
    ]
    return Table(header, shown, words=len(keys))


def _heading(measure: Measure) -> str:
    return measure.title[0].upper() + measure.title[1:]


def _figure(measure: Measure, reports: Sequence[Report]) -> Cell:
    known = [value for report in reports if (value := measure.value(report)) is not None]
    if not known:
        return cells.missing(None)
    text = measure.text(fmean(known))
    if len(known) > 1:
        text += f" ({measure.text(min(known))} to {measure.text(max(known))})"
    return Cell(text)


# ---------------------------------------------------------------------- charts


def _pareto(rows: Sequence[Row], good: Measure, cost: Measure) -> str | None:
    points = []
    for row in rows:
        if row.report:
            x, y = cost.value(row.report), good.value(row.report)
            if x is not None and y is not None:
                points.append(charts.Labelled(x, y, row.name))
    return charts.pareto(points, cost.title, good.title, good.better) if points else None


# ---------------------------------------------------------------------- what runs share


def _data_sets(rows: Sequence[Row]) -> list[str]:
    found = [entry.dataset for row in rows if row.report for entry in row.report.quality]
    return list(dict.fromkeys(found))


def _devices(rows: Sequence[Row]) -> list[str]:
    found = [device for row in rows if row.report for device in devices(row.report)]
    return list(dict.fromkeys(found))
