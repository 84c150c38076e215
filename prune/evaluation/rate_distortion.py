"""Rate-distortion evaluation: codecs side by side on the same clips from the same I frames.

Every clip is coded in a coding loop: the first frame of each group of pictures (GOP) is an I frame
by a real codec, each other one a P frame from the previous reconstruction. Frames count with the
bytes they take, or P frames by the codec's own estimate (`coding_loop.Bits`); averages are
over all frames.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lvc.program import Levels
from prune.data.source import Source
from prune.evaluation.clips import Skip, checked, number_of_clips, own_clips
from prune.evaluation.coding_loop import Bits, loop, possible_bits
from prune.evaluation.metrics import Measure, average, bd, mean, ms_ssim, psnr, why_no_ms_ssim
from prune.evaluation.spread import Spread
from vcodecs import UserError, VideoCodec
from vcodecs.intra import CodedPicture, IntraCodec

Progress = Callable[[int, int, str], None]
"""Called with (codings done, codings in all, what was just done)."""

IFrames = Mapping[int, CodedPicture]
"""By frame number: the decoded I frame (1, 3, H, W) and its bits."""


@dataclass(frozen=True, kw_only=True)
class ClipResult(Measure):
    """One codec on one clip at one rate point: averages over all frames, I frames included.

    `p_bpp` and `p_psnr` are the averages over P frames only. The `frame_` lists have one entry a
    frame; `frame_kind` is "I" or "P". `decoded` holds the pictures that were asked for, uint8 RGB
    (H, W, 3) by frame number.
    """

    p_bpp: float
    p_psnr: float
    frame_kind: tuple[str, ...]
    frame_bpp: tuple[float, ...]
    frame_psnr: tuple[float, ...]
    decoded: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class ClipPoint:
    """All codecs on one clip at one rate point (None for codecs trained at one lambda)."""

    clip: str
    rate: float | None
    results: dict[str, ClipResult]


@dataclass(frozen=True)
class DecodedPicture:
    """A P frame as it was and as each codec decodes it, uint8 RGB (H, W, 3)."""

    clip: str
    frame: int
    rate: float | None
    original: np.ndarray
    decoded: dict[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """The findings of `evaluate`: one `ClipPoint` for each clip and rate point, all codecs in it.

    `pictures` shows the first clips' last P frames at the first rate point. `skipped` maps clips
    that were left out to the reason.
    """

    codecs: tuple[str, ...]
    rates: tuple[float | None, ...]
    intra: str
    bits: Bits
    frames: int
    gop: int
    points: tuple[ClipPoint, ...]
    pictures: tuple[DecodedPicture, ...]
    skipped: dict[str, str]

    @property
    def clips(self) -> tuple[str, ...]:
        """The names of the clips that were coded; files in different folders may share one."""
        return tuple(point.clip for point in self.points if point.rate == self.rates[0])

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each clip left out, after one that counts them."""
        if not self.skipped:
            return ()
        total = len(self.skipped) + len(self.clips)
        count = f"evaluation: {len(self.skipped)} of {total} clips were left out"
        return (count, *(f"left out: {name}: {reason}" for name, reason in self.skipped.items()))

    def average(self, codec: str, rate: float | None) -> Measure:
        """The mean over clips, each counting the same whatever its size."""
        return average(point.results[codec] for point in self.points if point.rate == rate)

    def quality_entry(self, dataset: str) -> dict[str, object]:
        """One item of a report's `quality` list, for an evaluation of "dense" and "sparse".

        `bd_*` compare the curves of the averages over clips, sparse against dense.
        """
        if missing := {"dense", "sparse"} - set(self.codecs):
            raise ValueError(f"the evaluation has no codec named {' or '.join(sorted(missing))}")
        dense = [self.average("dense", rate) for rate in self.rates]
        sparse = [self.average("sparse", rate) for rate in self.rates]
        points = [
            {"rate": rate, "dense": a.entry(), "sparse": b.entry()}
            for rate, a, b in zip(self.rates, dense, sparse, strict=True)
        ]
        delta = bd(
            [point.bpp for point in dense],
            [point.psnr for point in dense],
            [point.bpp for point in sparse],
            [point.psnr for point in sparse],
        )
        period = f", one I frame in {self.gop}" if self.gop < self.frames else ""
        entry = {
            "dataset": dataset,
            "clips": len(self.clips),
            "frames": self.frames,
            "intra": self.intra + period,
            "bits": self.bits,
            "points": points,
            "bd_psnr_db": delta.psnr_db,
            "bd_rate_percent": delta.rate_percent,
            "clips_detail": [_clip_detail(point) for point in self.points],
        }
        if delta.why:
            entry["why"] = {"bd_psnr_db": delta.why, "bd_rate_percent": delta.why}
        return entry


def evaluate_clip(
    codec: VideoCodec,
    frames: np.ndarray,
    intra: IntraCodec,
    rate: float | None,
    gop: int,
    keep: Collection[int] = (),
    i_frames: IFrames | None = None,
    bits: Bits = "real",
    receiver: Levels | None = None,
) -> ClipResult:
    """Code one clip, uint8 RGB (T, 3, H, W), in a coding loop and measure every frame.

    `codec` runs in eval mode on its own device and is left in the mode it had. `keep`: numbers of
    the decoded frames to return. `i_frames`: coded before by `code_i_frames`, else coded here.
    `bits` are estimated where the codec has no others. `receiver`: as for `loop`. PSNR and MS-SSIM
    are those of the float pictures in [0, 1]. UserError where the codec's values are not finite.
    """
    if i_frames is None:
        i_frames = code_i_frames(frames, intra, gop, rate)
    device = _device(codec)
    pixels = frames.shape[-2] * frames.shape[-1]
    kinds, bpps, psnrs, ssims, decoded = [], [], [], [], {}
    with _evaluating(codec), torch.no_grad():
        coding = loop(codec, possible_bits(codec, bits), receiver)
        for number in range(len(frames)):
            original = _to_tensor(frames[number], device)
            if number in i_frames:
                kind = "I"
                picture, taken = i_frames[number].frame, i_frames[number].bits
                picture = picture.to(device)
                coding.start(picture)
            else:
                kind = "P"
                picture, taken = coding.code(original, rate)
            quality = float(psnr(picture, original))
            if not (math.isfinite(taken) and math.isfinite(quality)):
                raise UserError(
                    f"frame {number}: the codec's bits or picture are not finite numbers: "
                    "its weights are damaged or its training diverged"
                )
            kinds.append(kind)
            bpps.append(taken / pixels)
            psnrs.append(quality)
            ssims.append(ms_ssim(picture, original))
            if number in keep:
                decoded[number] = _to_uint8(picture)
    p_frames = [number for number, kind in enumerate(kinds) if kind == "P"]
    why = why_no_ms_ssim(*frames.shape[-2:])
    return ClipResult(
        bpp=mean(bpps),
        psnr=mean(psnrs),
        ms_ssim=None if why else mean(float(value) for value in ssims if value is not None),
        why=why,
        p_bpp=mean(bpps[number] for number in p_frames),
        p_psnr=mean(psnrs[number] for number in p_frames),
        frame_kind=tuple(kinds),
        frame_bpp=tuple(bpps),
        frame_psnr=tuple(psnrs),
        decoded=decoded,
    )


def code_i_frames(
    frames: np.ndarray,
    intra: IntraCodec,
    gop: int,
    rate: float | None = None,
    device: str | torch.device = "cpu",
) -> IFrames:
    """Code the first frame of every `gop` frames of a clip, uint8 RGB (T, 3, H, W)."""
    if gop < 2 or len(frames) < 2:
        raise UserError(
            f"{len(frames)} frames with a gop of {gop} leave no P frame to evaluate: "
            "give at least 2 of both"
        )
    return {
        number: intra.encode(_to_tensor(frames[number], torch.device(device)), rate)
        for number in range(0, len(frames), gop)
    }


def evaluate(
    codecs: Mapping[str, VideoCodec],
    source: Source,
    intra: IntraCodec,
    rates: Sequence[float | None],
    frames: int,
    gop: int,
    clips: int | None = None,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    pictures: int = 3,
    bits: Bits = "real",
    spread: Spread | None = None,
    receivers: Mapping[str, Levels] | None = None,
) -> Evaluation:
    """Evaluate codecs, such as {"dense": ..., "sparse": ...}, on the same clips and I frames.

    The first `frames` frames of the first `clips` clips of `source` (all where None) are coded at
    each of `rates`; the first `pictures` clips' last P frames are kept to look at. The codecs are
    moved to `device` and stay there. `bits` are estimated for all codecs where one of them has no
    others. `receivers`: by codec what runs its receiver, if not torch.

    A clip that cannot be read or is too small or too short is left out with a warning. Of several
    processes each codes the clips that `spread` gives it, and all return the same. Raises UserError
    where none is left, the source is endless and `clips` is None, or a codec gives values that are
    not finite.
    """
    spread = spread or Spread()
    if not codecs or not rates:
        raise ValueError("nothing to evaluate: no codec or no rate point")
    done = 0
    points: dict[int, list[ClipPoint]] = {}
    shown: dict[int, DecodedPicture] = {}
    skipped: dict[int, Skip] = {}
    if "estimated" in {possible_bits(codec, bits) for codec in codecs.values()}:
        bits = "estimated"
    for codec in codecs.values():
        codec.to(device)
    for index, info, original in own_clips(source, frames, clips, skipped, spread):
        i_frames = code_i_frames(original, intra, gop, rates[0], device)
        last_p = max(set(range(frames)) - set(i_frames))
        for rate in rates:
            if intra.rated and rate != rates[0]:
                i_frames = code_i_frames(original, intra, gop, rate, device)
            show = rate == rates[0] and len(shown) < pictures
            keep = (last_p,) if show else ()
            results = {}
            for label, codec in codecs.items():
                try:
                    receiver = (receivers or {}).get(label)
                    result = evaluate_clip(
                        codec, original, intra, rate, gop, keep, i_frames, bits, receiver
                    )
                except UserError as error:
                    raise UserError(f"{label} codec on clip {info.name}: {error}") from error
                results[label] = result
                done += 1
                if progress:
                    usable = number_of_clips(source, clips) // spread.count - len(skipped)
                    text = _progress_text(label, info.name, rate, result)
                    progress(done, usable * len(rates) * len(codecs), text)
            point = ClipPoint(info.name, rate, results)
            points.setdefault(index, []).append(point)
            if show:
                shown[index] = _picture(point, last_p, original)
    left_out = checked(source, clips, spread.merged(skipped))
    return Evaluation(
        codecs=tuple(codecs),
        rates=tuple(rates),
        intra=intra.name,
        bits=bits,
        frames=frames,
        gop=gop,
        points=tuple(point for some in spread.merged(points).values() for point in some),
        pictures=tuple(spread.merged(shown).values())[:pictures],
        skipped=source.skipped | left_out,
    )


def _progress_text(label: str, clip: str, rate: float | None, result: ClipResult) -> str:
    at = "" if rate is None else f" at rate {rate:g}"
    return f"{clip}, {label}{at}: {result.bpp:.4f} bpp, {result.psnr:.2f} dB"


def _picture(point: ClipPoint, frame: int, original: np.ndarray) -> DecodedPicture:
    return DecodedPicture(
        clip=point.clip,
        frame=frame,
        rate=point.rate,
        original=np.ascontiguousarray(original[frame].transpose(1, 2, 0)),
        decoded={label: result.decoded[frame] for label, result in point.results.items()},
    )


def _clip_detail(point: ClipPoint) -> dict[str, object]:
    dense, sparse = point.results["dense"], point.results["sparse"]
    return {
        "clip": point.clip,
        "rate": point.rate,
        "dense": dense.entry(),
        "sparse": sparse.entry(),
        "psnr_lost_db": dense.psnr - sparse.psnr,
        "bpp_gained": sparse.bpp - dense.bpp,
    }


@contextmanager
def _evaluating(codec: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module's own mode again afterwards."""
    modes = [(module, module.training) for module in codec.modules()]
    codec.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _device(codec: nn.Module) -> torch.device:
    first = next(codec.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _to_tensor(frame: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (3, H, W) to (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(frame).to(device)[None].float() / 255


def _to_uint8(picture: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] to uint8 (H, W, 3)."""
    levels = (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round()
    return levels.to(torch.uint8).cpu().contiguous().numpy()
