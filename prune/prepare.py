"""`python -m prune.prepare SOURCE FOLDER`: decode training clips once, for many fast readings."""

import argparse
import os
from pathlib import Path

from prune.cli import main
from prune.data import open_source
from prune.data.packed import is_begun, is_packed, pack
from prune.progress import Progress, console, warn
from vcodecs import UserError


def prepare(source: str, folder: Path, most_frames: int | None, processes: int) -> None:
    """Pack `source` into `folder`; UserError where that is something else's."""
    if folder.exists() and any(folder.iterdir()) and not (is_packed(folder) or is_begun(folder)):
        raise UserError(f"{folder}: holds other files; name an empty folder or a new one")
    opened = open_source(source)
    with Progress("preparing", len(opened)) as progress:
        packed, skipped = pack(
            opened,
            folder,
            most_frames,
            processes,
            lambda done, _, name: progress.show(name, done, {}),
        )
    for name, reason in skipped.items():
        warn(f"left out: {name}: {reason}")
    frames = sum(clip.info.frames for clip in packed.clips)
    size = packed.path.stat().st_size / 2**30
    console.print(f"{folder}: {len(packed)} clips, {frames} frames, {size:.1f} GiB")


def command() -> None:
    parser = argparse.ArgumentParser(prog="python -m prune.prepare", description=__doc__)
    parser.add_argument("source", help="a folder of clips, or anything that data.train takes")
    parser.add_argument("folder", type=Path, help="where the decoded frames go")
    parser.add_argument("--frames", type=int, metavar="N", help="at most so many of each clip")
    parser.add_argument(
        "--processes", type=int, metavar="N", default=os.cpu_count() or 1, help="(all cores)"
    )
    arguments = parser.parse_args()
    prepare(arguments.source, arguments.folder, arguments.frames, arguments.processes)


if __name__ == "__main__":
    main(command)
