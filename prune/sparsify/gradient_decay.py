"""Gradient decay: hard masks of channels whose masked weights keep learning, ever less.

Peng et al., PCS 2024, section III: the forward pass sees W~ = m * W for a hard mask m of channels;
the backward pass lets the gradient of masked channels through, decayed by beta, which runs from 1
to 0 over the sparse training:

    dL/dW = dL/dW~ * (m + beta * (1 - m))

With beta = 1 this is the straight-through estimator, with beta = 0 plain masking. In between,
masked channels can come back while they still learn. Its rivals differ in the two factors alone:

| method           | forward          | backward         | source                                  |
|------------------|------------------|------------------|-----------------------------------------|
| gradient-decay   | m                | m + beta (1 - m) | Peng et al., PCS 2024                   |
| straight-through | m                | 1                | Bengio et al., 2013                     |
| mask-decay       | m + beta (1 - m) | m + beta (1 - m) | after EVC, Wang et al., ICLR 2023       |
| one-shot         | m                | m                | magnitude, then fine-tuning             |
"""

import math
from typing import Any

import torch
from torch import Tensor

from prune.groups.weights import sum_by_channel
from prune.recipe.schema import BetaSection


def factors(method: str, mask: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Forward and backward factors (C,) for a hard mask (C,) of 0 and 1, beta in [0, 1]."""
    decayed = mask + beta * (1 - mask)
    if method == "gradient-decay":
        return mask, decayed
    if method == "straight-through":
        return mask, torch.ones_like(mask)
    if method == "mask-decay":
        return decayed, decayed
    if method == "one-shot":
        return mask, mask
    raise ValueError(f"no method {method!r}")


def beta_at(section: BetaSection, progress: float) -> float:
    """beta when `progress` (0 to 1) of the sparse training is done."""
    part = (progress - section.begin) / (section.finish - section.begin)
    part = min(1.0, max(0.0, part))
    if section.shape == "cosine":
        part = (1 - math.cos(math.pi * part)) / 2
    return section.start + (section.end - section.start) * part


class GradientDecay(torch.autograd.Function):
    """weight * forward factors; the gradient of `weight` is scaled by the backward factors.

    `gate` is used for its gradient alone: the sum over a channel of weight * dL/dW~, which is
    what the task would gain or lose by opening that channel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        gate: Tensor,
        forward: Tensor,
        backward: Tensor,
        dim: int,
        channels: Tensor,
    ) -> Tensor:
        """Gate and factors are (C,); `channels` is the channel of each entry along `dim`.

        An entry of channel -1 is in no channel, and stays as it is.
        """
        ctx.save_for_backward(weight, backward, channels)
        ctx.dim = dim
        return weight * _spread(forward, channels, weight, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, factors, channels = ctx.saved_tensors
        grad_weight = grad_gate = None
        if ctx.needs_input_grad[0]:
            grad_weight = grad * _spread(factors, channels, weight, ctx.dim)
        if ctx.needs_input_grad[1]:
            grad_gate = sum_by_channel(grad * weight, channels, factors.numel(), ctx.dim)
        return grad_weight, grad_gate, None, None, None, None


def _spread(factors: Tensor, channels: Tensor, weight: Tensor, dim: int) -> Tensor:
    """(C,) factors as a tensor that broadcasts along `dim` of `weight`."""
    # The entry behind the last channel is what channel -1 finds.
    rows = torch.cat((factors, factors.new_ones(1)))[channels]
    return rows.reshape([-1 if d == dim else 1 for d in range(weight.dim())])
