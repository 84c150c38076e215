"""The state that a training goes on from: whole or absent, the newest few of them.

`state.pt` is the newest, `state.1.pt` the one before, and so on. A newest one that was damaged on
its way to the disk, or since, costs the steps behind the one before it and nothing else.
"""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lvc.files import TEMPORARY, replacing
from prune.progress import warn
from vcodecs import UserError

STATE = "state.pt"
"""The state that training goes on from; removed once its step is done."""

UNREADABLE = (
    OSError, RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, ValueError,
    zipfile.BadZipFile, NotImplementedError,
)  # fmt: skip
"""Errors of reading a damaged file, whatever the damage."""


class SavedStates:
    """The newest `kept` states of a training in `folder`."""

    def __init__(self, folder: Path, kept: int = 2) -> None:
        self.folder, self.kept = folder, kept

    def save(self, state: dict[str, Any]) -> None:
        """Make `state` the newest; a kill at any moment leaves those from before."""
        newest = self._path(0)
        with replacing(newest) as temporary:
            self._write(state, temporary)
            if newest.exists():
                for age in range(self.kept - 1, 1, -1):
                    if self._path(age - 1).exists():
                        self._path(age - 1).replace(self._path(age))
                if self.kept > 1:
                    _second_name(newest, self._path(1))
        for path in state_files(self.folder):
            if path.name not in {self._path(age).name for age in range(self.kept)}:
                path.unlink()

    def load(self, use: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
        """The newest state that is whole, after `use` has taken it in; None where there is none.

        UserError where none of those there is whole, or where `use` cannot take one: it is of
        another training.
        """
        paths = sorted(state_files(self.folder), key=_age)
        for number, path in enumerate(paths, 1):
            state = _read(path)
            if state is None:
                for before in paths[number : number + 1]:
                    warn(f"{path}: damaged; training goes on from {before.name}, saved before it")
                continue
            try:
                use(state)
            except (RuntimeError, LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: the state of another training; give another output, or remove all "
                    "state*.pt there to train from the start"
                ) from error
            return state
        if paths:
            raise UserError(
                f"{paths[0]}: damaged, and no whole state beside it; remove it to train from the "
                "start"
            )
        return None

    def _write(self, state: dict[str, Any], path: Path) -> None:
        try:
            torch.save(state, path)
        except RuntimeError as error:
            # torch's writer keeps to itself what the system has told it.
            free = shutil.disk_usage(self.folder).free / 2**20
            raise UserError(
                f"{self._path(0)}: cannot be written ({free:.0f} MiB are free there); what was "
                "saved before is whole: make room, and the same command goes on"
            ) from error

    def _path(self, age: int) -> Path:
        return self.folder / (f"state.{age}.pt" if age else STATE)


def state_files(folder: Path) -> list[Path]:
    """All states in a folder."""
    return [*folder.glob(STATE), *folder.glob("state.[0-9]*.pt")]


def _age(path: Path) -> int:
    middle = path.name.removeprefix("state.").removesuffix("pt").strip(".")
    return int(middle) if middle.isdigit() else 0


def _read(path: Path) -> dict[str, Any] | None:
    """A state whose checksums hold; None for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        if isinstance(error, PermissionError):
            raise
        return None
    return state if isinstance(state, dict) else None


def _second_name(path: Path, other: Path) -> None:
    """Let `other` be `path` too, which another file will soon take the name of."""
    temporary = other.with_name(f".{other.name}{TEMPORARY}{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        temporary.replace(other)
    except OSError:  # a file system without second names
        path.replace(other)
