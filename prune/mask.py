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


def sum_by_channel(values: Tensor, channels: Tensor, count: int, dim: int) -> Tensor:
    """(`count`,): the sum of `values` over all entries of each channel, -1 left out."""
    others = [d for d in range(values.dim()) if d != dim]
    rows = values.sum(others) if others else values
    # Channel -1 goes to a place behind the last one, and is cut off.
    places = channels.remainder(count + 1)
    return rows.new_zeros(count + 1).index_add(0, places, rows)[:count]


class ChannelMask(nn.Module):
    """Parametrisation of one weight or bias by the gate of its group."""

    def __init__(self, masked: "MaskedGroup", dim: int, channels: Tensor) -> None:
        super().__init__()
        # In a tuple, so that the group is no part of the codec's own modules and state.
        self._group = (masked,)
        self.dim = dim
        self.register_buffer("channels", channels, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        gate = self._group[0].gate
        return GradientDecay.apply(
            weight, gate.value, gate.forward, gate.backward, self.dim, self.channels
        )


class MaskedGroup:
    """A channel group of a codec with masks on all its producers."""

    def __init__(self, codec: VideoCodec, group: Group) -> None:
        self.group = group
        self.producers = producing_layers(codec, group)
        ones = torch.ones(group.size, device=self.producers[0][0].weight.device)
        self.gate = Gate(ones, ones, ones)
        for layer, channels in self.producers:
            weight_mask = ChannelMask(self, output_dim(layer), channels)
            parametrize.register_parametrization(layer, "weight", weight_mask)
            if layer.bias is not None:
                parametrize.register_parametrization(layer, "bias", ChannelMask(self, 0, channels))

    def norms(self) -> Tensor:
        """`filter_norms` of the weights behind the masks."""
        return filter_norms(self.producers, self.group.size)

    def unmask(self) -> None:
        """Take the masks off again; the unmasked weights stay."""
        for layer, _ in self.producers:
            for name in ("weight", "bias"):
                if parametrize.is_parametrized(layer, name):
                    parametrize.remove_parametrizations(layer, name, leave_parametrized=False)


def producing_layers(codec: nn.Module, group: Group) -> list[tuple[nn.Module, Tensor]]:
    """The layers that make a group's channels, each with the channel of every output of it.

    (outputs,) integers, -1 for an output that is in no channel of this group.
    """
    return [
        (convolution(codec, member.layer), _channels_of_outputs(codec, member))
        for member in group.producers()
    ]


def convolution(codec: nn.Module, name: str) -> nn.Module:
    """The layer that holds the weights: of a sub-pixel convolution, the convolution inside."""
    layer = codec.get_submodule(name)
    return layer[0] if isinstance(layer, SubpelConv) else layer


def output_dim(layer: nn.Module) -> int:
    """The weight's dimension of output channels: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def _channels_of_outputs(codec: nn.Module, member: Member) -> Tensor:
    layer = codec.get_submodule(member.layer)
    repeat = layer.factor**2 if isinstance(layer, SubpelConv) else 1
    weight = original(convolution(codec, member.layer))
    channels = torch.full((weight.shape[output_dim(layer)] // repeat,), -1, device=weight.device)
    for channel, outputs in enumerate(member.channels):
        channels[list(outputs)] = channel
    return channels.repeat_interleave(repeat)


def original(layer: nn.Module) -> Tensor:
    """A layer's weight behind its masks."""
    masked = parametrize.is_parametrized(layer, "weight")
    return layer.parametrizations.weight.original if masked else layer.weight


@torch.no_grad()
def filter_norms(producers: Sequence[tuple[nn.Module, Tensor]], size: int) -> Tensor:
    """(`size`,): root mean square over all unmasked weights that produce each of the channels."""
    squares: Tensor | float = 0.0
    entries: Tensor | float = 0.0
    for layer, channels in producers:
        weight, dim = original(layer), output_dim(layer)
        squares = squares + sum_by_channel(weight.square(), channels, size, dim)
        entries = entries + sum_by_channel(torch.ones_like(weight), channels, size, dim)
    return (squares / entries).sqrt()


def relative_norms(codec: VideoCodec, group: Group) -> Tensor:
    """(C,): norms of a codec without masks, in their mean: what one-shot pruning goes by."""
    norms = filter_norms(producing_layers(codec, group), group.size)
    return norms / norms.mean().clamp_min(1e-12)


@torch.no_grad()
def zero_channels(codec: VideoCodec, group: Group, kept: Sequence[int]) -> None:
    """Set the weights and biases that produce channels outside `kept` to zero, in place."""
    gone = torch.tensor(sorted(set(range(group.size)) - set(kept)), dtype=torch.long)
    for layer, channels in producing_layers(codec, group):
        rows = torch.isin(channels, gone.to(channels.device)).nonzero().flatten()
        layer.weight.index_fill_(output_dim(layer), rows, 0)
        if layer.bias is not None:
            layer.bias.index_fill_(0, rows, 0)
