"""Conventional codecs beside those of an evaluation: the same clips, frames and I frames."""

import numpy as np
import pytest

from lvc.anchor import anchor
from prune.data.source import ClipError, ClipInfo, Source
from prune.evaluation.anchors import QPS, anchor_points


class Clips(Source):
    """Smooth moving pictures; the clip numbered `broken` cannot be read."""

    name = "clips"

    def __init__(self, count, frames=5, broken=None):
        self.skipped = {}
        self.count, self.frames, self.broken = count, frames, broken

    def __len__(self):
        return self.count

    def info(self, index):
        return ClipInfo(f"clip{index}", self.frames, 48, 64, 25.0)

    def read(self, index, start, count, step=1):
        if index == self.broken:
            raise ClipError(f"clip{index}", "torn")
        return pictures(index)[start : start + count]


def pictures(seed, frames=5):
    x = np.arange(64) + np.arange(frames)[:, None, None, None] * 2
    y = np.arange(48)[:, None]
    wave = np.sin(x / (5 + seed)) + np.cos(y / 7)
    return np.broadcast_to(60 * wave + 128, (frames, 3, 48, 64)).astype(np.uint8)


def test_points_are_averages_over_clips_by_codec_and_qp():
    points = anchor_points(Clips(2), ["h264", "hevc"], frames=5, gop=5)
    assert [(p["codec"], p["qp"]) for p in points] == [
        (name, qp) for name in ("x264 medium", "x265 medium") for qp in QPS
    ]
    alone = [anchor(pictures(seed), 25.0, "h264", QPS[0]) for seed in (0, 1)]
    assert points[0]["bpp"] == pytest.approx(np.mean([one.bpp for one in alone]))
    assert points[0]["psnr"] == pytest.approx(np.mean([one.psnr for one in alone]))


def test_more_bits_bring_more_quality():
    points = anchor_points(Clips(1), ["hevc"], frames=4, gop=4)
    for value in ("bpp", "psnr"):
        found = [point[value] for point in points]
        assert found == sorted(found, reverse=True)


def test_each_group_of_pictures_has_an_i_frame_of_its_own():
    (whole, *_), (cut, *_) = (anchor_points(Clips(1), ["h264"], frames=4, gop=g) for g in (4, 2))
    groups = [anchor(pictures(0)[start : start + 2], 25.0, "h264", QPS[0]) for start in (0, 2)]
    assert cut["bpp"] == pytest.approx(np.mean([one.bpp for one in groups]))
    assert cut["bpp"] > whole["bpp"]


def test_a_clip_that_the_evaluation_leaves_out_is_left_out_here():
    points = anchor_points(Clips(2, broken=0), ["h264"], frames=5, gop=5)
    assert points[0]["bpp"] == pytest.approx(anchor(pictures(1), 25.0, "h264", QPS[0]).bpp)
