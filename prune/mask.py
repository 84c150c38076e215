"""Channel masks on weights, and the gradient-decay estimator behind them.

Peng et al., PCS 2024, section III: the forward pass sees m * W for a hard mask m of channels; the
backward pass lets the gradient of masked channels through, decayed by beta:

    dL/dW = dL/dW~ * (m + beta * (1 - m)),   W~ = m * W

With beta = 1 this is the straight-through estimator, with beta = 0 plain masking. In between,
masked channels keep learning, ever less, and can come back while they still do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prune.groups import Group, Member
from vcodecs import VideoCodec
from vcodecs.layers import SubpelConv


@dataclass
class Gate:
    """The mask of one group as a step sees it; every tensor is (C,), one entry a channel.

    `value` is 0 or 1 and carries the gradient of the soft gate to the threshold; `forward` and
    `backward` are the factors of weights and of gradients.
    """

    value: Tensor
    forward: Tensor
    backward: Tensor


class GradientDecay(torch.autograd.Function):
    """weight * forward factors; the gradient of `weight` is scaled by the backward factors.

    `gate` is used for its gradient alone: the sum over a channel of weight * dL/dW~, which is
    what the task would gain or lose by opening that channel.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, gate: Tensor, forward: Tensor, backward: Tensor, dim: int
    ) -> Tensor:
        """`weight` has size C * r along `dim`; the factors are (C,), each for r entries."""
        ctx.save_for_backward(weight, backward)
        ctx.dim = dim
        return weight * _spread(forward, weight, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, factors = ctx.saved_tensors
        grad_gate = None
        if ctx.needs_input_grad[1]:
            others = [d for d in range(weight.dim()) if d != ctx.dim]
            by_row = (grad * weight).sum(others) if others else grad * weight
            grad_gate = by_row.reshape(factors.numel(), -1).sum(1)
        grad_weight = grad * _spread(factors, weight, ctx.dim) if ctx.needs_input_grad[0] else None
        return grad_weight, grad_gate, None, None, None


def _spread(factors: Tensor, weight: Tensor, dim: int) -> Tensor:
    rows = factors.repeat_interleave(weight.shape[dim] // factors.numel())
    return rows.reshape([-1 if d == dim else 1 for d in range(weight.dim())])


class ChannelMask(nn.Module):
    """Parametrisation of one weight or bias by the gate of its group."""

    def __init__(self, masked: "MaskedGroup", dim: int) -> None:
        super().__init__()
        # In a tuple, so that the group is no part of the codec's own modules and state.
        self._group = (masked,)
        self.dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        gate = self._group[0].gate
        return GradientDecay.apply(weight, gate.value, gate.forward, gate.backward, self.dim)


class MaskedGroup:
    """A channel group of a codec with masks on all its producers.

    Channels of different members are matched by order, so each member's indices have to be
    0 ... size - 1; a producer with indices of its own is permuted through `rows`.
    """

    def __init__(self, codec: VideoCodec, group: Group) -> None:
        self.group = group
        self.producers = [
            (convolution(codec, member.layer), member)
            for member in group.producers()
            if not member.layer.startswith("entry:")
        ]
        ones = torch.ones(group.size, device=self.producers[0][0].weight.device)
        self.gate = Gate(ones, ones, ones)
        for layer, member in self.producers:
            if [i for row in member.channels for i in row] != list(range(group.size)):
                raise ValueError(f"{member.layer}: its outputs are not the group's channels")
            parametrize.register_parametrization(
                layer, "weight", ChannelMask(self, output_dim(layer))
            )
            if layer.bias is not None:
                parametrize.register_parametrization(layer, "bias", ChannelMask(self, 0))

    def norms(self) -> Tensor:
        """`group_norms` of the weights behind the masks."""
        return filter_norms([layer for layer, _ in self.producers], self.group.size)

    def unmask(self) -> None:
        """Take the masks off again; the unmasked weights stay."""
        for layer, _ in self.producers:
            for name in ("weight", "bias"):
                if parametrize.is_parametrized(layer, name):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=False)


def convolution(codec: nn.Module, name: str) -> nn.Module:
    """The layer that holds the weights: of a sub-pixel convolution, the convolution inside."""
    layer = codec.get_submodule(name)
    return layer[0] if isinstance(layer, SubpelConv) else layer


def output_dim(layer: nn.Module) -> int:
    """The weight's dimension of output channels: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


@torch.no_grad()
def filter_norms(layers: Sequence[nn.Module], channels: int) -> Tensor:
    """(C,): root mean square over all unmasked weights that produce each of the channels."""
    squares: Tensor | float = 0.0
    entries = 0
    for layer in layers:
        masked = parametrize.is_parametrized(layer, "weight")
        weight = layer.parametrizations.weight.original if masked else layer.weight
        rows = weight.transpose(0, output_dim(layer)).reshape(channels, -1)
        squares = squares + rows.square().sum(1)
        entries += rows.shape[1]
    return (squares / entries).sqrt()


def relative_norms(codec: VideoCodec, group: Group) -> Tensor:
    """(C,): norms of a codec without masks, in their mean: what one-shot pruning goes by."""
    layers = [
        convolution(codec, member.layer)
        for member in group.producers()
        if not member.layer.startswith("entry:")
    ]
    norms = filter_norms(layers, group.size)
    return norms / norms.mean().clamp_min(1e-12)


@torch.no_grad()
def zero_channels(codec: VideoCodec, group: Group, kept: list[int]) -> None:
    """Set the weights and biases that produce channels outside `kept` to zero, in place."""
    gone = sorted(set(range(group.size)) - set(kept))
    for member in group.producers():
        if gone and not member.layer.startswith("entry:"):
            _zero_member(convolution(codec, member.layer), member, gone)


def _zero_member(layer: nn.Module, member: Member, gone: list[int]) -> None:
    dim = output_dim(layer)
    repeat = layer.out_channels // sum(len(row) for row in member.channels)
    local = [i * repeat + k for c in gone for i in member.channels[c] for k in range(repeat)]
    rows = torch.tensor(local, device=layer.weight.device)
    layer.weight.index_fill_(dim, rows, 0)
    if layer.bias is not None:
        layer.bias.index_fill_(0, rows, 0)
