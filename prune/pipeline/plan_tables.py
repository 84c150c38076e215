"""A plan for people: channel groups, MACs, and the layers that are left alone."""

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prune.pipeline.plan import Plan, PlannedTime
from prune.report.cells import prefixed

WIDTH = 100  # of what goes to a file or a pipe


def tables(plan: Plan) -> list[Table]:
    """The plan for people: groups, MACs, and the layers that are left alone."""
    times = [_time_table(plan.time)] if plan.time else []
    return [_groups_table(plan), _macs_table(plan), *times, _fixed_table(plan)]


def as_text(plan: Plan) -> str:
    """The tables as plain text."""
    text = io.StringIO()
    shown = Console(width=WIDTH, highlight=False, file=text, color_system=None)
    for table in tables(plan):
        shown.print(table)
    return text.getvalue()


def _groups_table(plan: Plan) -> Table:
    table = _table("Channels that go together", "made by", "read by", "dense", "kept", "removed")
    for group in plan.groups:
        removed = len(group.removed)
        counts = (group.channels, group.channels - removed, removed)
        shown = (str(count * group.width) for count in counts)
        table.add_row(_lines(group.made_by), _lines(group.read_by), *shown)
    return table


def _macs_table(plan: Plan) -> Table:
    macs = plan.macs
    title = f"MACs of the decoder for a frame of {macs.width}x{macs.height}"
    table = _table(title, "module", "dense", "kept", "removed")
    rows = [*macs.by_module.items(), ("in all", (macs.dense, macs.sparse))]
    for i, (name, (dense, sparse)) in enumerate(rows):
        if i == len(rows) - 1:
            table.add_section()
        removed = f"{1 - sparse / dense:.1%}" if dense else "–"
        table.add_row(
            Text(name), *(prefixed(n, "MAC", macs.dense) for n in (dense, sparse)), removed
        )
    return table


def _time_table(time: PlannedTime) -> Table:
    title = f"Time of the decoder for a frame of {time.width}x{time.height}, predicted"
    table = _table(title, "on", "dense", "kept", "removed")
    threads = f"{time.threads} thread{'s' * (time.threads != 1)}"
    table.add_row(
        f"{time.runtime}, {time.precision}, {threads}",
        f"{time.dense_ms:.4g} ms",
        f"{time.sparse_ms:.4g} ms",
        f"{1 - time.sparse_ms / time.dense_ms:.1%}",
    )
    return table


def _fixed_table(plan: Plan) -> Table:
    table = _table("Layers whose output channels all stay", "layer", "why")
    for layer, reason in plan.fixed.items():
        table.add_row(Text(layer), Text(reason))
    return table


def _table(title: str, *headings: str) -> Table:
    """Names to the left and folded where they are too long, figures to the right and whole."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for heading in headings:
        if heading in ("dense", "kept", "removed"):
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading, overflow="fold")
    return table


def _lines(layers: Sequence[str]) -> Text:
    return Text("\n".join(layers))
