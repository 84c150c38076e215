"""The view of a person while training runs: a live bar on a terminal, lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from prune.launch import launched_rank

LINE_EVERY_SECONDS = 60.0

# Of several processes the first one tells. Names of files and clips are printed as they
# are, whatever brackets and colons they hold.
console = Console(
    highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=launched_rank() > 0
)
notices = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)
"""Errors and warnings go to standard error: standard output may be read by a program."""


def notice(kind: str, text: str, style: str) -> None:
    """`kind` in `style`, then `text`, in one line on standard error."""
    line = " ".join(text.splitlines())
    if launched_rank():
        line = f"(process {launched_rank()}) {line}"
    # An argument that is no valid text holds surrogates, which no stream takes.
    line = line.encode("utf-8", "backslashreplace").decode()
    notices.print(Text.assemble((kind, style), " ", line))


def be_quiet() -> None:
    """From now on only warnings and errors are told."""
    console.quiet = True


def warn(text: str) -> None:
    if not launched_rank():
        notice("warning", text, "yellow")


class Progress:
    """Steps done of `total`, with the figures of the last logged one."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.first = title, total, done
        self.live = console.is_terminal
        self.started = self.last_line = time.monotonic()
        if self.live:
            self.bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.bar.add_task(title, total=total, completed=done, figures="")

    def __enter__(self) -> "Progress":
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.bar.stop()

    def show(self, stage: str, done: int, figures: dict[str, float]) -> None:
        """Report that `done` steps are behind us."""
        text = describe(figures)
        if self.live:
            self.bar.update(
                self.task, completed=done, figures=text, description=f"{self.title}: {stage}"
            )
            return
        now = time.monotonic()
        if now - self.last_line < LINE_EVERY_SECONDS and done < self.total:
            return
        self.last_line = now
        left = (now - self.started) / max(1, done - self.first) * (self.total - done)
        console.print(f"{self.title}: {stage} {done}/{self.total}  {text}  {_clock(left)} left")


def describe(figures: dict[str, float]) -> str:
    """loss, bpp, PSNR, beta and keep against budget, as far as there are."""
    parts = [
        f"{label} {figures[key]:{form}}"
        for key, label, form in (
            ("loss", "loss", ".3f"),
            ("bpp", "bpp", ".3f"),
            ("psnr", "PSNR", ".2f"),
            ("beta", "beta", ".2f"),
        )
        if key in figures
    ]
    if "speed" in figures:
        parts.append(f"{figures['speed']:.2f} steps/s, {figures['waiting']:.0%} waiting for data")
    if figures.get("skipped"):
        parts.append(f"{figures['skipped']:.0f} skipped")
    if "keep" in figures:
        parts.append(f"keep {figures['keep']:.2f}/{figures.get('budget', 0):.2f}")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
