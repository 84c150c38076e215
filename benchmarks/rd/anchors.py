"""The anchors that every codec is compared with, and the file that keeps what they measured."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rd.curves import Point
from rd.project import ENCODERS, UserError, anchor, atomic_write
from rd.results import listed

STORE = Path(__file__).parents[1] / "results" / "anchors.json"
_QPS = tuple(range(14, 51, 4))
_AV1_QPS = (8, 15, 22, 29, 36, 43, 50, 57, 63)


@dataclass(frozen=True)
class Kind:
    """A conventional codec at a preset and the QPs of its curve."""

    codec: str
    preset: str
    qps: tuple[int, ...]

    @property
    def title(self):
        between = " preset " if self.codec == "av1" else " "
        return f"{ENCODERS[self.codec].title}{between}{self.preset}"


KINDS = (
    Kind("h264", "veryfast", _QPS),
    Kind("h264", "medium", _QPS),
    Kind("hevc", "veryfast", _QPS),
    Kind("hevc", "medium", _QPS),
    Kind("av1", "4", _AV1_QPS),
)


class Store:
    """Curves of anchors by clip, in a JSON file that is written after each curve.

    A curve counts as measured where its clip has the same frames, by their digest.
    """

    def __init__(self, path):
        self.path = path
        self.clips, self._rows = {}, {}
        if path.is_file():
            content = _read(path)
            self.clips = content["clips"]
            for row in content["curves"]:
                qps = tuple(qp for qp, *_ in row["points"])
                self._rows[row["clip"], Kind(row["codec"], row["preset"], qps)] = row

    def curve(self, clip, kind, told=lambda text: None):
        """The curve of `kind` on a `Clip`, measured now where it is not there."""
        if self.clips.get(clip.name, {}).get("digest") != clip.digest:
            self.clips[clip.name] = clip.entry()
            self._rows = {key: row for key, row in self._rows.items() if key[0] != clip.name}
        if (clip.name, kind) not in self._rows:
            self._rows[clip.name, kind] = measure(clip, kind)
            self.save()
            told(f"{clip.name}: {kind.title} measured")
        return self.known(clip.name, kind)

    def known(self, clip, kind):
        """The curve on a clip by its name; None where it was not measured."""
        row = self._rows.get((clip, kind))
        return row and [Point(bpp, psnr) for _, bpp, psnr in row["points"]]

    def encoders(self):
        """The encoders that were used, with their versions."""
        return sorted({row["encoder"] for row in self._rows.values()})

    def save(self):
        about = {
            "command": "python benchmarks/anchors.py --store --source CLIPS",
            "structure": "low delay, one I frame, constant QP, tuned for PSNR, BT.709 4:2:0",
            "points": "QP, bits per pixel, RGB-PSNR in dB; averages over all frames",
        }
        rows = [row for _, row in sorted(self._rows.items(), key=lambda item: _order(*item[0]))]
        clips = dict(sorted(self.clips.items()))
        atomic_write(self.path, listed({"about": about, "clips": clips, "curves": rows}))


def _order(clip, kind):
    return clip, [k.title for k in KINDS].index(kind.title) if kind in KINDS else 99, kind.title


def _read(path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}): remove it, and it is measured anew") from error


def measure(clip, kind):
    """The row of a curve: a point for each QP, of real bits and of what they decode to."""
    points = []
    for qp in kind.qps:
        coded = anchor(clip.pictures, clip.fps, kind.codec, qp, preset=kind.preset)
        points.append([qp, round(coded.bpp, 6), round(coded.psnr, 4)])
    about = {"clip": clip.name, "codec": kind.codec, "preset": kind.preset}
    return {**about, "encoder": version(kind.codec), "points": points}


_SAYS = """
import sys
import numpy as np
from lvc.anchor import Colour, encode
from lvc.encoders import video_encoder
said = {"hevc": {"x265-params": "info=1:log-level=none"}}.get(sys.argv[1], {})
context = video_encoder(sys.argv[1], (64, 64), "yuv420p", 25, said)
print(b"".join(map(bytes, encode(context, [Colour().to_yuv(np.zeros((3, 64, 64), np.uint8))]))))
"""
_VERSION = {
    "h264": r"x264 - (core \d+)",
    "hevc": r"x265 \(build \d+\) - (\S+?):",
    "av1": r"SVT-AV1 Encoder Lib (\S+)",
}


@cache
def version(codec):
    """An encoder and its version, which x264 and x265 write into streams, SVT-AV1 into its log."""
    # A program of its own: a library reads how much it is to tell only once.
    command = [sys.executable, "-c", _SAYS, codec]
    said = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"SVT_LOG": "3"}
    )
    found = re.search(_VERSION[codec], said.stdout + said.stderr)
    return f"{ENCODERS[codec].title} {found[1] if found else 'of unknown version'}"
