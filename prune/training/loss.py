"""The rate-distortion loss of a training stage over unrolled P frames."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vcodecs import Reference, Stage, VideoCodec, noise


@dataclass(frozen=True)
class Outcome:
    """One step's loss (a scalar with gradient) and what the curves show of it."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor


def rate_distortion(
    codec: VideoCodec,
    clip: Tensor,
    stage: Stage,
    lagrangian: float | Tensor,
    intra_noise: float = 0.0,
    rate: float | Tensor | None = None,
) -> Outcome:
    """lambda * MSE + bits per pixel, averaged over the stage's P frames.

    `clip`: (N, T, 3, H, W) with T >= stage.frames + 1; its first frame is the reference of the
    first P frame, the others follow coding-loop. `intra_noise`: up to this standard deviation of
    noise is added to that reference, which stands for the I frame's coding loss. `rate` and
    `lagrangian` may be tensors (N,), one for each clip.
    """
    upto = None if stage.picture == "frame" else stage.picture
    first = _as_decoded(clip[:, 0], intra_noise)
    reference = Reference(first.contiguous(memory_format=torch.channels_last))
    pixels = clip.shape[-2] * clip.shape[-1]
    losses, rates, errors = [], [], []
    for t in range(1, stage.frames + 1):
        original = clip[:, t].contiguous(memory_format=torch.channels_last)
        coded = codec(original, reference, rate, upto)
        picture = coded.frame.float()
        error = (picture - original).square().flatten(1).mean(1)
        if coded.auxiliary is not None:
            error = error + coded.auxiliary
        bpp = coded.total_bits(stage.streams).mean() / pixels
        losses.append((lagrangian * error).mean() + bpp)
        rates.append(bpp.detach())
        errors.append(F.mse_loss(picture.detach().clamp(0, 1), original))
        reference = coded.reference
    return Outcome(_mean(losses), _mean(rates), _mean(errors))


def _as_decoded(frame: Tensor, deviation: float) -> Tensor:
    if not deviation:
        return frame
    amplitude = deviation * noise.uniform(frame.new_empty(len(frame), 1, 1, 1))
    return (frame + amplitude * noise.normal(frame)).clamp(0, 1)


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
