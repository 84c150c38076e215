"""Steps of a run that are done once: skipped while their results and inputs are as they were."""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from lvc.files import atomic_write, leftovers
from prune.progress import console
from prune.training.processes import Processes
from prune.training.saved_state import state_files
from vcodecs import UserError

VERSION = 1
"""Raised when a change of the code makes results on disk worthless."""
RECORD = "step.json"


@dataclass
class Record:
    """The record in a step's folder. `made` is drawn anew each time it is done anew."""

    fingerprint: str
    made: str
    done: bool = False
    seconds: float = 0.0
    results: list[str] = field(default_factory=list)


class Steps:
    """Runs steps in their own folders below `folder`.

    A step's fingerprint covers its inputs and the very results that it builds on. A folder left
    by an unfinished step of the same fingerprint is kept (training goes on in it); one of another
    fingerprint, or with a file of its results gone, is emptied and the step done anew, and with
    it all that build on it.

    Of several processes the first one works and keeps the records while the others wait, or all
    of them work (`together`); the folder has to be one that all of them see.
    """

    def __init__(self, folder: Path, processes: Processes | None = None) -> None:
        self.folder, self.processes = folder, processes or Processes()
        self.made: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def __call__(
        self,
        name: str,
        inputs: Any,
        work: Callable[[Path], None],
        after: str | None = None,
        together: bool = False,
    ) -> Path:
        """Make sure that step `name` is done; returns its folder.

        `work(folder)` leaves its results there. `inputs` is whatever JSON can hold. `after`: the
        step that this one builds on, where that is not the one called before. `together`: all
        processes work, of which the first one writes. UserError when the folder holds files of
        someone else.
        """
        before = after or next(reversed(self.made), "")
        text = json.dumps(
            [VERSION, self.made.get(before), name, inputs], sort_keys=True, default=str
        )
        folder, first = self.folder / name, self.processes.first
        record = _begin(folder, hashlib.sha256(text.encode()).hexdigest()) if first else None
        known = self.processes.agreed(record)
        assert known is not None  # the first process's
        if known.done:
            console.print(f"{name}: done before")
        else:
            console.print(Text(name, "bold"))
            start = time.monotonic()
            if first or together:
                work(folder)
            # What an interrupted attempt took is not known and not counted.
            known.seconds = time.monotonic() - start
            if first:
                _end(folder, known)
            self.processes.agreed(None)  # nobody reads results before they are there
        self.made[name] = known.made
        self.seconds[name] = known.seconds
        return folder


def _begin(folder: Path, fingerprint: str) -> Record:
    """The record of the step as it is found, or of one to be done anew."""
    record = _read(folder)
    if record is None or record.fingerprint != fingerprint:
        record = Record(fingerprint, made=secrets.token_hex(16))
        _empty(folder)
        _write(folder, record)
    if not record.done:
        for path in leftovers(folder):
            path.unlink()
    return record


def _end(folder: Path, record: Record) -> None:
    states = state_files(folder)
    results = {path.name for path in folder.iterdir()} - {path.name for path in states}
    record.results = sorted(results - {RECORD})
    record.done = True
    _write(folder, record)
    for path in states:
        path.unlink()


def _read(folder: Path) -> Record | None:
    """The record, where there is one and the results that it lists are there."""
    try:
        record = Record(**json.loads((folder / RECORD).read_text(encoding="utf-8")))
        whole = all((folder / name).exists() for name in record.results)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return record if whole else None


def _write(folder: Path, record: Record) -> None:
    atomic_write(folder / RECORD, json.dumps(asdict(record)) + "\n")


def _empty(folder: Path) -> None:
    """Remove what an earlier run left there, its record last: a kill on the way harms nothing."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another `output`")
    temporary = leftovers(folder)
    entries = [entry for entry in folder.iterdir() if entry.name != RECORD]
    if set(entries) - set(temporary) and not (folder / RECORD).exists():
        raise UserError(f"{folder}: holds files that no run has made; choose another `output`")
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def write_json(path: Path, content: Any) -> None:
    """A small result of a step."""
    atomic_write(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
