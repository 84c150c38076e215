"""x264 and x265 on the clips of an evaluation: what a reader measures both codecs by."""

from collections.abc import Sequence

import numpy as np

from lvc.anchor import anchor
from lvc.encoders import ENCODERS
from prune.data.source import Source
from prune.evaluation.clips import read_clips
from prune.evaluation.metrics import mean

QPS = (22, 27, 32, 37)
"""The four of the video coding groups' common test conditions."""


def anchor_points(
    source: Source, codecs: Sequence[str], frames: int, gop: int, clips: int | None = None
) -> list[dict[str, object]]:
    """Rate and PSNR of conventional codecs, averaged over clips as `evaluate` averages.

    The same clips, frames and I frames as in `evaluate`: low delay, preset medium, real bits. A
    point for each of `codecs` ("h264", "hevc", "av1") and `QPS`, in a report's form.
    """
    points: list[dict[str, object]] = []
    sums: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for info, clip in read_clips(source, frames, clips, {}):
        for codec in codecs:
            for qp in QPS:
                sums.setdefault((codec, qp), []).append(_coded(clip, gop, codec, qp, info.fps))
    for (codec, qp), found in sums.items():
        bpp, quality = (mean(values) for values in zip(*found, strict=True))
        name = f"{ENCODERS[codec].title} {ENCODERS[codec].usual}"
        points.append({"codec": name, "qp": qp, "bpp": bpp, "psnr": quality})
    return points


def _coded(clip: np.ndarray, gop: int, codec: str, qp: int, fps: float) -> tuple[float, float]:
    """Bits per pixel and PSNR of a clip, a group of pictures at a time."""
    groups = [clip[start : start + gop] for start in range(0, len(clip), gop)]
    made = [(len(group), anchor(group, fps, codec, qp)) for group in groups]
    return (
        sum(count * one.bpp for count, one in made) / len(clip),
        sum(count * one.psnr for count, one in made) / len(clip),
    )
