"""Damage that FFmpeg tells of nowhere but in its log, while it shows the pictures all the same."""

from collections.abc import Iterator
from contextlib import contextmanager

import av.logging

_SIGNS_OF_DAMAGE = ("CRC mismatch", "File ended prematurely")


class Complaints(list[tuple[int, str, str]]):
    """FFmpeg's error messages, as PyAV captures them."""

    @property
    def damage(self) -> str | None:
        """The first message that tells of damage."""
        said = (text.strip() for *_, text in self)
        return next((t for t in said if any(sign in t for sign in _SIGNS_OF_DAMAGE)), None)


@contextmanager
def complaints() -> Iterator[Complaints]:
    """FFmpeg's error messages of this thread, each of them however often it comes."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    heard = Complaints()
    try:
        with av.logging.Capture() as messages:
            try:
                yield heard
            finally:
                heard += messages
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)
