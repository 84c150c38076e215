"""One run in an output folder at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from prune.progress import warn
from vcodecs import UserError

LOCK = ".running"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; UserError where another one does.

    The system lets go of it when the process ends, however it ends: no run leaves a lock behind
    that somebody would have to remove.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another run is at work in it; wait for its end, or give another output="
        ) from None
    except NotImplementedError:
        warn(f"{folder}: this file system has no locks; start no second run in it")
        yield
        return
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for nothing finds none or a new one.
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
