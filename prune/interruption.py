"""Ends that come from outside: Ctrl-C, and SIGTERM, by which schedulers take a machine back.

A training finishes its step, saves and then ends (`noted_signals`); anything else ends at once,
since it is done anew anyway. The exit status says what it was: 128 and the signal's number, as
shells have it (130 for SIGINT, 143 for SIGTERM).
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where a signal ends the work; `number` is the signal's."""

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(saved)
        self.number, self.saved = number, saved

    @property
    def status(self) -> int:
        """The process's exit status."""
        return 128 + self.number


@contextmanager
def raised_signals() -> Iterator[None]:
    """Within it SIGTERM ends the work as Ctrl-C does, and both say which they were."""
    with _handled(_raise):
        yield


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {}
    # Elsewhere Python takes no handlers.
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            known = signal.getsignal(number)
            # A shell's background jobs ignore Ctrl-C, and so do theirs.
            if known is not signal.SIG_IGN and known is not None:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


class Asked:
    """A signal that came: `number`, and 0 while there was none."""

    number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            _raise(number, frame)
        self.number = number


@contextmanager
def noted_signals() -> Iterator[Asked]:
    """Within it a first signal is only noted; a second one ends the work at once."""
    asked = Asked()
    with _handled(asked):
        yield asked
