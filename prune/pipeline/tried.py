"""A trial of all that a run needs of a codec at its end, in seconds, before hours of training."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from prune.groups.shrink import shrunk_copy
from prune.onnx_export.bundle import Size
from prune.pipeline.job import Job
from prune.pipeline.work import export, export_checked
from vcodecs import Reference, UserError, checkpoints
from vcodecs.coding import can_code

SIDE = 128
"""Pixels of the frames that are tried."""


@dataclass(frozen=True)
class Tried:
    """Counts of graphs that were exported and run, and of frames that were coded and decoded."""

    graphs: int
    frames: int

    def __str__(self) -> str:
        bits = f"{self.frames} frames coded and decoded" if self.frames else "no real bits to try"
        return f"{self.graphs} graphs exported and run, {bits}, shrunk, saved and loaded"


def try_out(job: Job) -> Tried:
    """Export, code and decode small frames, shrink, save and load, and leave nothing.

    UserError, one line, where one of these fails: it names what was tried, and for a graph the
    operation and the way out.
    """
    codec, size = job.teacher, Size(SIDE, SIDE, job.recipe.export.dynamic)
    with tempfile.TemporaryDirectory() as place, _trying("export"):
        _, frames = export_checked(job, codec, Path(place), size, _random_clip(job))
    try_shrinking(job)
    waves = len(codec.coding().waves) if can_code(codec) else 0
    return Tried(len(codec.decoder_graphs(SIDE, SIDE)) + waves, frames)


def try_export(job: Job, folder: Path) -> None:
    """The dense codec's bundle in `folder`; a UserError says that it is the export that failed."""
    with _trying("export"):
        export(job, job.teacher, folder)


def try_shrinking(job: Job) -> None:
    """Shrink, save and load, and leave nothing. UserError, one line, where that fails."""
    with tempfile.TemporaryDirectory() as place, _trying("shrinking, saving and loading"):
        _load_shrunk(job, Path(place) / "shrunk.safetensors", _random_clip(job)[:2])


def _random_clip(job: Job) -> torch.Tensor:
    generator = torch.Generator().manual_seed(job.recipe.seed)
    return torch.rand(3, 3, SIDE, SIDE, generator=generator)


@torch.no_grad()
def _load_shrunk(job: Job, path: Path, clip: torch.Tensor) -> None:
    """With every second channel removed: each kind of layer has then to take its new width."""
    kept = {group.name: list(range(0, group.size, 2)) for group in job.channels.groups}
    shrunk = shrunk_copy(job.teacher, kept, job.channels).eval()
    checkpoints.save(shrunk, path, kept)
    loaded = job.load(path)
    rate, reference = shrunk.rates()[0], Reference(clip[:1])
    before, after = (each(clip[1:], reference, rate).frame for each in (shrunk, loaded))
    if not torch.equal(before.nan_to_num(), after.nan_to_num()):
        raise UserError("the codec that is loaded codes other pictures than the one that was saved")


@contextmanager
def _trying(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
    except (MemoryError, torch.OutOfMemoryError, OSError):
        raise
    except Exception as error:  # whatever a codec of the user's raises
        line = next(iter(str(error).splitlines()), "")[:300]
        raise UserError(f"{what}: {type(error).__name__}: {line}") from error
