"""Clips decoded once into one memory-mapped file: what long trainings read instead of videos.

A packed folder holds `clips.json` (a line of facts for each clip) and `frames.bin`, the frames of
all clips one after the other, uint8 (T, 3, H, W), RGB. Any number of processes share its pages, and
a crop costs no more than copying it.
"""

import json
import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lvc.errors import UserError
from lvc.files import replacing
from prune.data.source import ClipError, ClipInfo, Source

LIST, FRAMES = "clips.json", "frames.bin"
FORMAT = "leanvc-clips-1"


@dataclass(frozen=True)
class PackedClip:
    """Where a clip's frames lie: `offset` in bytes, and their CRC-32."""

    info: ClipInfo
    offset: int
    crc32: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.info.frames, 3, self.info.height, self.info.width


class PackedClips(Source):
    """The clips of a packed folder."""

    def __init__(self, folder: Path) -> None:
        """UserError where the folder is not whole."""
        self.name = str(folder)
        self.skipped: dict[str, str] = {}
        self.path = folder / FRAMES
        try:
            listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
            self.clips = [
                PackedClip(ClipInfo(**clip.pop("info")), **clip) for clip in listed["clips"]
            ]
            size = self.path.stat().st_size
            whole = listed["format"] == FORMAT and size == listed["bytes"]
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise UserError(f"{folder}: no packed clips ({error})") from error
        if not whole:
            raise UserError(f"{folder}: {FRAMES} does not belong to {LIST}; prepare it again")
        self._pixels: np.memmap | None = None

    def __len__(self) -> int:
        return len(self.clips)

    def __getstate__(self) -> dict:
        # Each process maps the file itself.
        return self.__dict__ | {"_pixels": None}

    def info(self, index: int) -> ClipInfo:
        return self.clips[index].info

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        start, count = self.window(index, start, count)
        return np.array(self.view(index)[start : start + count])

    def cut(self, index: int, start: int, count: int) -> np.ndarray:
        # Nothing is copied but the crop that is taken of it.
        return self.view(index)[start : start + count]

    def view(self, index: int) -> np.ndarray:
        """All frames of clip `index`, uint8 (T, 3, H, W), in the mapped file."""
        if self._pixels is None:
            self._pixels = np.memmap(self.path, np.uint8, mode="r")
        clip = self.clips[index]
        size = int(np.prod(clip.shape))
        return self._pixels[clip.offset : clip.offset + size].reshape(clip.shape)

    def damaged(self) -> list[str]:
        """The clips whose pixels are not those that were packed, by name."""
        return [
            clip.info.name
            for index, clip in enumerate(self.clips)
            if zlib.crc32(self.view(index).data) != clip.crc32
        ]


def is_packed(folder: Path) -> bool:
    """Whether a folder holds packed clips (whole or not)."""
    return (folder / LIST).is_file() and (folder / FRAMES).exists()


def is_begun(folder: Path) -> bool:
    """Whether a folder holds an unfinished packing."""
    return (folder / f".{LIST}.part").is_file()


def pack(
    source: Source,
    folder: Path,
    most_frames: int | None = None,
    processes: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[PackedClips, dict[str, str]]:
    """Decode all clips of `source` into `folder`; returns them, and what was left out and why.

    `most_frames`: of each clip, from its beginning. Where an earlier call for the same clips was
    interrupted, it goes on behind the last clip that was whole. The list is written last and names
    the size of the other file, so a folder that was not finished never looks whole. UserError
    where no clip can be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LIST).unlink(missing_ok=True)
    part = PackedPart(folder, source, most_frames)
    clips, skipped, done = part.clips, source.skipped | part.skipped, part.done
    with part.writing() as add:
        for number, found in enumerate(_decoded(source, most_frames, processes, done), done + 1):
            add(found)
            name = found.clip if isinstance(found, ClipError) else found[0].name
            if isinstance(found, ClipError):
                skipped[found.clip] = found.reason
            if progress:
                progress(number, len(source), name)
    if not clips:
        part.remove()
        raise UserError(f"{source.name}: no clip could be read ({next(iter(skipped.items()))})")
    part.frames.replace(folder / FRAMES)
    size = (folder / FRAMES).stat().st_size
    content = {"format": FORMAT, "bytes": size, "clips": [asdict(clip) for clip in clips]}
    with replacing(folder / LIST) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.remove()
    return PackedClips(folder), skipped


class PackedPart:
    """The remains of an unfinished packing of `source` in a folder; nothing where it is another's.

    `clips` and `skipped` are those of the first `done` clips of the source.
    """

    def __init__(self, folder: Path, source: Source, most_frames: int | None) -> None:
        self.frames, self.journal = folder / f".{FRAMES}.part", folder / f".{LIST}.part"
        self.of = {"source": source.name, "clips": len(source), "most_frames": most_frames}
        self.clips: list[PackedClip] = []
        self.skipped: dict[str, str] = {}
        self.entries: list[dict[str, Any]] = []
        try:
            head, *lines = self.journal.read_text(encoding="utf-8").splitlines()
            there = self.frames.stat().st_size
            for line in lines if json.loads(head) == self.of else ():
                self._take(json.loads(line), there)
        except (OSError, ValueError, TypeError, LookupError):
            pass  # it begins behind what could be read: a kill may have torn the last line

    @property
    def end(self) -> int:
        """Bytes of the clips that are whole."""
        last = self.clips[-1] if self.clips else None
        return last.offset + int(np.prod(last.shape)) if last else 0

    def _take(self, entry: dict[str, Any], there: int) -> None:
        if "left_out" in entry:
            self.skipped |= entry["left_out"]
        else:
            clip = PackedClip(ClipInfo(**entry["info"]), entry["offset"], entry["crc32"])
            if clip.offset != self.end or clip.offset + int(np.prod(clip.shape)) > there:
                raise ValueError("the frames end before")
            self.clips.append(clip)
        self.entries.append(entry)

    @property
    def done(self) -> int:
        return len(self.entries)

    @contextmanager
    def writing(self) -> Iterator[Callable[[tuple[ClipInfo, np.ndarray] | ClipError], None]]:
        """Yields what adds a clip, its frames first and then its line."""
        with replacing(self.journal) as temporary:
            lines = [json.dumps(line) + "\n" for line in (self.of, *self.entries)]
            temporary.write_text("".join(lines), encoding="utf-8")
        self.frames.touch()
        with (
            open(self.frames, "r+b") as frames,
            open(self.journal, "a", encoding="utf-8") as journal,
        ):
            frames.truncate(self.end)
            frames.seek(self.end)

            def add(found: tuple[ClipInfo, np.ndarray] | ClipError) -> None:
                if isinstance(found, ClipError):
                    entry: dict[str, Any] = {"left_out": {found.clip: found.reason}}
                else:
                    info, pixels = found
                    height, width = pixels.shape[2:]
                    kept = ClipInfo(info.name, len(pixels), height, width, info.fps)
                    clip = PackedClip(kept, self.end, zlib.crc32(pixels.data))
                    frames.write(pixels.data)
                    frames.flush()
                    self.clips.append(clip)
                    entry = asdict(clip)
                journal.write(json.dumps(entry) + "\n")
                journal.flush()

            yield add
            os.fsync(frames.fileno())

    def remove(self) -> None:
        self.frames.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)


def _decoded(
    source: Source, most_frames: int | None, processes: int, first: int
) -> Iterator[tuple[ClipInfo, np.ndarray] | ClipError]:
    """All clips from `first` on in their order, decoded by `processes` at once."""
    work = ((source, index, most_frames) for index in range(first, len(source)))
    if processes == 1:
        yield from map(_decode, work)
        return
    # A fresh interpreter each: forked ones inherit threads' locks.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_decode, work)


def _decode(
    work: tuple[Source, int, int | None],
) -> tuple[ClipInfo, np.ndarray] | ClipError:
    source, index, most_frames = work
    info = source.info(index)
    count = min(info.frames, most_frames or info.frames)
    try:
        return info, np.ascontiguousarray(source.read(index, 0, count))
    except ClipError as error:
        return error
