"""Figures and reasons as cells of tables, and tables as Markdown."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prune.report.schema import Part

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """Text of a table; `tone` is "" or one of missing, good, bad. `link`: a relative address."""

    text: str
    tone: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first `words` columns are words, the others figures."""

    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    words: int = 1


def digits(value: float, significant: int = 4) -> str:
    """`value` with that many significant digits, thousands apart, never in exponents."""
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, significant - 1 - size)}f}".replace("-", MINUS)


def signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def prefixed(value: float, unit: str, largest: float | None = None) -> str:
    """`value` in thousands, millions or billions, as suits `largest`: 2,586 GMAC, 10.7 M."""
    largest = abs(value if largest is None else largest)
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if largest >= size:
            return f"{digits(value / size, 3)} {prefix}{unit}"
    return f"{digits(value, 3)} {unit}".strip()


def missing(reason: str | None) -> Cell:
    return Cell(f"not measured ({reason})" if reason else "not measured", "missing")


def cell(part: Part, field: str, show: Callable[..., str]) -> Cell:
    """The field as `show` writes it, or why there is none; a known caveat follows the value."""
    value = getattr(part, field)
    if value is None:
        return missing(part.reason(field))
    caveat = part.why.get(field) if isinstance(part.why, dict) else None
    return Cell(f"{show(value)} ({caveat})" if caveat else show(value))


def words(*texts: object) -> tuple[Cell, ...]:
    return tuple(Cell(str(text)) for text in texts)


def markdown_text(text: str) -> str:
    """`text` on one line of Markdown, with nothing in it taken for markup."""
    for sign in "\\`*[]|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def markdown(table: Table) -> str:
    lines = [
        " | ".join(markdown_text(name) for name in table.header),
        " | ".join("---" if at < table.words else "---:" for at in range(len(table.header))),
        *(" | ".join(_markdown_cell(cell) for cell in row) for row in table.rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    return f"[{text}]({cell.link})" if cell.link else text
