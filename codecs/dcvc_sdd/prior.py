"""The entropy model: quantisation steps, and four steps over positions and channel quarters.

In squares of 2 x 2 positions each of the four steps reads one position of every quarter of the
channels (Li, Li, Lu, CVPR 2023). What the first step expects comes from hyper latent, temporal
prior and the latent before; the others add what has been read so far.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lvc.fields import QUARTER_STEPS
from vcodecs.dcvc_hem.prior import Quantised
from vcodecs.entropy import noisy, rounded

RATES = (0.0, 1.0, 2.0, 3.0)
"""The rate points, from the fewest bits on."""
SMALLEST_STEP = 0.5
"""Bound of the elements' quantisation steps."""


class Expectation(NamedTuple):
    """A prior's expectation of a latent, each (N, C, h, w): its quantisation step, and scale and
    mean in units of that step; `fused` (N, 3C, h, w): the three as the network gave them."""

    step: Tensor
    scale: Tensor
    mean: Tensor
    fused: Tensor


Expect = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""From a step (1, 2 or 3) and the latent as known so far to its scale and mean, (N, C, h, w)."""


def parameters(fused: Tensor, bound: nn.Module) -> Expectation:
    """The parts of a fusion network's output (N, 3C, h, w); `bound` keeps steps above 0.5."""
    fused = fused.float()
    step, scale, mean = fused.chunk(3, 1)
    return Expectation(bound(step), scale, mean, fused)


def expected(
    adaptor: nn.Module, prior: nn.Module, known: Tensor, fused: Tensor
) -> tuple[Tensor, Tensor]:
    """Scale and mean of a later step; `known` (N, C, h, w) is zero where nothing is read yet."""
    scale, mean = prior(adaptor(torch.cat((known, fused), dim=1))).float().chunk(2, 1)
    return scale, mean


def fields(like: Tensor) -> list[Tensor]:
    """By step (C, h, w): 1 where it codes a latent like this, else 0."""
    channels, height, width = like.shape[1:]
    rows = torch.arange(height, device=like.device).view(-1, 1) % 2
    columns = torch.arange(width, device=like.device) % 2
    place = 2 * rows + columns
    return [_fields(step, place, channels // 4).to(like.dtype) for step in QUARTER_STEPS]


def _fields(positions: Sequence[int], place: Tensor, quarter: int) -> Tensor:
    return torch.cat([(place == p).expand(quarter, -1, -1) for p in positions])


def quantise(latent: Tensor, prior: Expectation, expect: Expect, training: bool) -> Quantised:
    """Code `latent` (N, C, h, w) in the four steps."""
    scaled = latent / prior.step
    known, residuals, scales = (torch.zeros_like(scaled) for _ in range(3))
    for number, now in enumerate(fields(scaled)):
        scale, mean = (prior.scale, prior.mean) if number == 0 else expect(number, known)
        residual = (scaled - mean * now) * now
        known = known + rounded(residual) + mean * now
        residuals = residuals + residual
        scales = scales + scale * now
    return Quantised(
        latent=known * prior.step,
        symbols=noisy(residuals) if training else torch.round(residuals),
        scale=scales,
    )
