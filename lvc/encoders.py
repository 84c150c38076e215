"""The conventional encoders behind PyAV, and the options that make an anchor of each of them."""

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av

from .errors import UserError

_SPEEDS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)


@dataclass(frozen=True)
class ConventionalEncoder:
    """One encoder: FFmpeg's names for it and its decoder, its presets, its largest QP.

    `presets`: from fast to slow; `usual` is the one that is meant where none is given.
    """

    library: str
    decoder: str
    title: str
    presets: tuple[str, ...] = ()
    usual: str = ""
    max_qp: int = 0


ENCODERS = {
    "hevc": ConventionalEncoder("libx265", "hevc", "x265", _SPEEDS, "medium", 51),
    "h264": ConventionalEncoder("libx264", "h264", "x264", _SPEEDS, "medium", 51),
    "lossless": ConventionalEncoder("ffv1", "ffv1", "FFV1"),
    "av1": ConventionalEncoder(
        "libsvtav1", "libdav1d", "SVT-AV1", tuple(map(str, range(10, -1, -1))), "4", 63
    ),
}
CLIP_CODECS = ("hevc", "h264", "av1")


def check(codec: str, preset: str, qp: int, all_intra: bool) -> None:
    """Raise a UserError that says what is allowed where an anchor cannot be coded like this."""
    if codec not in CLIP_CODECS:
        raise UserError(f"codec {codec!r} is unknown: choose hevc or h264 (or av1 for clips)")
    if all_intra and codec == "av1":
        raise UserError("av1 codes clips alone: choose hevc or h264 for I frames")
    encoder = ENCODERS[codec]
    if preset not in encoder.presets:
        raise UserError(
            f"{encoder.title} has no preset {preset!r}: choose one of {', '.join(encoder.presets)}"
        )
    allowed = f"choose 0 (best) to {encoder.max_qp}"
    if isinstance(qp, bool) or not isinstance(qp, int):
        raise UserError(f"qp {qp!r} is not a whole number: {allowed}")
    if not 0 <= qp <= encoder.max_qp:
        raise UserError(f"qp {qp} is out of range: {allowed}")
    check_encoder(codec)


def options(codec: str, preset: str, qp: int, all_intra: bool = False) -> dict[str, str]:
    """FFmpeg's options for constant QP, one thread, tuned for PSNR; low delay or intra alone."""
    if codec == "av1":
        # Its own structure of low delay: every frame is predicted from earlier ones alone.
        parameters = f"rc=0:aq-mode=0:qp={qp}:tune=1:pred-struct=1:keyint=-1:lp=1"
        return {"preset": preset, "svtav1-params": parameters}
    # With an I/P ratio of 1 an I frame is coded at the QP that the name states.
    endless = {"hevc": "keyint=-1", "h264": "keyint=infinite"}[codec]
    structure = "keyint=1:ipratio=1" if all_intra else endless
    parameters = f"qp={qp}:bframes=0:scenecut=0:{structure}"
    if codec == "hevc":
        # The analysis for weighted prediction reads unset memory at some sizes (such as 48x32),
        # so that the same clip takes other bytes each time; without fades it gains nothing.
        parameters += ":info=0:log-level=none:pools=none:frame-threads=1:weightp=0"
    return {"preset": preset, "tune": "psnr", f"{ENCODERS[codec].title}-params": parameters}


def check_encoder(codec: str) -> None:
    """Raise a UserError that names what is missing where PyAV was built without the encoder."""
    wanted = ENCODERS[codec].library
    if not _present(wanted):
        there = [f"{name} ({e.library})" for name, e in ENCODERS.items() if _present(e.library)]
        raise UserError(
            f"PyAV {av.__version__} was built without {wanted}, which {codec!r} needs; "
            f"it has: {', '.join(there) or 'none of ours'}. "
            "Use one of these, or install PyAV's wheel from PyPI"
        )


def _present(library: str) -> bool:
    try:
        return av.codec.Codec(library, "w") is not None
    except ValueError:  # PyAV's UnknownCodecError is one
        return False


def video_context(name: str, mode: Literal["r", "w"]) -> av.VideoCodecContext:
    """FFmpeg's codec of this name, which has to be one for pictures."""
    context = av.CodecContext.create(name, mode)
    assert isinstance(context, av.VideoCodecContext), name
    return context


def video_encoder(
    codec: str, size: tuple[int, int], pixel_format: str, fps: float, options: dict[str, str]
) -> av.VideoCodecContext:
    """A single-threaded encoder context for pictures of `size` (height, width)."""
    # SVT-AV1 tells its settings on standard error unless its environment says: errors alone.
    os.environ.setdefault("SVT_LOG", "1")
    rate = Fraction(fps if math.isfinite(fps) and fps > 0 else 30).limit_denominator(1001)
    context = video_context(ENCODERS[codec].library, "w")
    context.height, context.width = size
    context.pix_fmt = pixel_format
    context.framerate, context.time_base = rate, 1 / rate
    context.thread_count = 1
    context.options = options
    return context
