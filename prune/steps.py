"""Steps of a run that are done once: skipped while their results and inputs are as they were."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prune.progress import console
from vcodecs.files import atomic_write

VERSION = 1
"""Raised when a change of the code makes results on disk worthless."""


class Steps:
    """Runs steps in their own folders below `folder`.

    A step's fingerprint covers its own inputs and those of every step before it. A folder left by
    an unfinished step of the same fingerprint is kept (training goes on in it); one of another
    fingerprint is thrown away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprint = hashlib.sha256(str(VERSION).encode()).hexdigest()
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, inputs: Any, work: Callable[[Path], None]) -> Path:
        """Make sure that step `name` is done; returns its folder.

        `work(folder)` leaves its results there. `inputs` is whatever JSON can hold.
        """
        text = json.dumps([self.fingerprint, name, inputs], sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        folder = self.folder / name
        record = self._record(folder)
        if record.get("fingerprint") != self.fingerprint:
            shutil.rmtree(folder, ignore_errors=True)
            record = {"fingerprint": self.fingerprint, "done": False, "seconds": 0.0}
            self._write(folder, record)
        if not record["done"]:
            console.print(f"[bold]{name}[/bold]")
            start = time.monotonic()
            work(folder)
            # What an interrupted attempt took is not known and not counted.
            record |= {"done": True, "seconds": time.monotonic() - start}
            self._write(folder, record)
        else:
            console.print(f"{name}: done before")
        self.seconds[name] = record["seconds"]
        return folder

    def _record(self, folder: Path) -> dict[str, Any]:
        try:
            record = json.loads((folder / "step.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) and "done" in record else {}

    def _write(self, folder: Path, record: dict[str, Any]) -> None:
        atomic_write(folder / "step.json", json.dumps(record) + "\n")


def write_json(path: Path, content: Any) -> None:
    """A small result of a step."""
    atomic_write(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
