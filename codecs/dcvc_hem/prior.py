"""The entropy model: quantisation steps, and the two-step dual spatial prior.

A latent's positions are read in two steps, like the squares of a checkerboard; in the first step
the first half of the channels takes the white squares and the second half the black ones. What the
second step expects is predicted from all that the first has brought, so both steps are parallel.

An element is quantised with rate * channel * element: `quantiser` makes the first two factors,
the prior network predicts the third.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lvc.errors import UserError
from lvc.rates import SMALLEST_SCALE, log_linear
from vcodecs.dcvc_hem.blocks import activated
from vcodecs.entropy import noisy, rounded
from vcodecs.layers import conv

RATES = (0.0, 1.0, 2.0, 3.0)
"""The rate points, from the fewest bits on."""
SMALLEST_STEP = 0.5
"""Bound of both the channels' and the elements' factors."""


class Parameters(NamedTuple):
    """A prior's expectation of a latent, each (N, C, h, w): its quantisation step in units of the
    quantiser, and scale and mean in units of that step."""

    step: Tensor
    scale: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Quantised:
    """A latent as the receiver sees it, and its symbols with their scales, all (N, C, h, w).

    In training the symbols carry noise instead of being rounded.
    """

    latent: Tensor
    symbols: Tensor
    scale: Tensor


def first_scales() -> nn.Parameter:
    """Factors of the rate points (R, 1, 1, 1) before training, from 1.8 down to 0.6."""
    return nn.Parameter(torch.logspace(0.25, -0.25, len(RATES)).reshape(-1, 1, 1, 1))


def prior_network(*widths: int) -> nn.Sequential:
    """Convolutions from each of these widths to the next, of the fusion and spatial priors."""
    return activated(*(conv(a, b, 3) for a, b in pairwise(widths)), slope=0.2)


def parameters(fused: Tensor, bound: nn.Module) -> Parameters:
    """The parts of a fusion network's output (N, 3C, h, w); `bound` keeps steps above 0.5."""
    step, scale, mean = fused.float().chunk(3, 1)
    return Parameters(bound(step), scale, mean)


def second_parameters(
    network: nn.Module, first: Tensor, prior: Parameters
) -> tuple[Tensor, Tensor]:
    """Scale and mean for the second step; `first` (N, C, h, w) is zero where not yet known."""
    joined = torch.cat((first, prior.mean, prior.scale, prior.step), dim=1)
    scale_a, mean_a, scale_b, mean_b = network(joined).float().chunk(4, 1)
    return torch.cat((scale_a, scale_b), dim=1), torch.cat((mean_a, mean_b), dim=1)


def first_half(like: Tensor) -> Tensor:
    """(C, h, w): 1 where the first step codes a latent like this, 0 where the second does."""
    channels, height, width = like.shape[1:]
    rows = torch.arange(height, device=like.device).view(-1, 1)
    columns = torch.arange(width, device=like.device)
    white = ((rows + columns) % 2 == 0).to(like.dtype).unsqueeze(0)
    half = channels // 2
    return torch.cat((white.expand(half, -1, -1), (1 - white).expand(half, -1, -1)))


def quantise(latent: Tensor, prior: Parameters, network: nn.Module, training: bool) -> Quantised:
    """Code `latent` (N, C, h, w), in units of its quantiser, in the two steps."""
    scaled = latent / prior.step
    now = first_half(latent)
    later = 1 - now
    first_residual = (scaled - prior.mean * now) * now
    first = rounded(first_residual) + prior.mean * now
    scale, mean = second_parameters(network, first, prior)
    second_residual = (scaled - mean * later) * later
    second = rounded(second_residual) + mean * later
    residual = first_residual + second_residual
    return Quantised(
        latent=(first + second) * prior.step,
        symbols=noisy(residual) if training else torch.round(residual),
        scale=prior.scale * now + scale * later,
    )


def quantiser(
    basic: Tensor, scales: Tensor, rate: float | Tensor | None, bound: nn.Module
) -> Tensor:
    """The latent's divisor (N or 1, C, 1, 1) at `rate`: a channel's factor times the rate's.

    `basic` (1, C, 1, 1); `scales` (R, 1, 1, 1) at the rate points 0 ... R - 1, log-linear between
    them. Errors: UserError for a missing rate or one out of range.
    """
    return bound(basic) * rate_factor(scales, rate)


def rate_factor(scales: Tensor, rate: float | Tensor | None) -> Tensor:
    """The factor (N or 1, 1, 1, 1) of a rate, or of one rate for each of N frames."""
    last = len(scales) - 1
    if rate is None:
        raise UserError(f"this codec serves many rates: give one from 0 to {last}")
    rates = torch.as_tensor(rate, dtype=torch.float32).reshape(-1)
    # Looking at rates on another device would wait for all that it has still to compute.
    if rates.device.type == "cpu" and not ((rates >= 0) & (rates <= last)).all():
        wrong = ", ".join(f"{one:g}" for one in rates.tolist())
        raise UserError(f"rate {wrong} is out of range: give one from 0 to {last}")
    # Without values there is nothing to look up by, and what tells factors apart would be lost.
    rates = rates if scales.is_meta else rates.to(scales.device)
    points = scales.flatten().clamp_min(SMALLEST_SCALE)
    nearest = rates.round().long()
    part = rates - nearest
    neighbour = nearest + part.sign().long()
    factor = log_linear(points[nearest], points[neighbour], part.abs().to(scales.device))
    return factor.reshape(-1, 1, 1, 1)
