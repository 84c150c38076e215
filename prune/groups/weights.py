"""The weights that make a group's channels: which they are, how large, and set to zero."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prune.groups.channels import Group, Member
from vcodecs import VideoCodec
from vcodecs.layers import SubpelConv, has_values


def sum_by_channel(values: Tensor, channels: Tensor, count: int, dim: int) -> Tensor:
    """(`count`,): the sum of `values` over all entries of each channel, -1 left out."""
    others = [d for d in range(values.dim()) if d != dim]
    rows = values.sum(others) if others else values
    # Channel -1 goes to a place behind the last one, and is cut off.
    places = channels.remainder(count + 1)
    return rows.new_zeros(count + 1).index_add(0, places, rows)[:count]


Convolution = nn.Conv2d | nn.ConvTranspose2d
Weighted = Convolution | nn.Linear


def producing_layers(codec: nn.Module, group: Group) -> list[tuple[Weighted, Tensor]]:
    """The layers that make a group's channels, each with the channel of every output of it.

    (outputs,) integers, -1 for an output that is in no channel of this group.
    """
    return [
        (weighted(codec, member.layer), _channels_of_outputs(codec, member))
        for member in group.producers()
    ]


def weighted(codec: nn.Module, name: str) -> Weighted:
    """The layer that holds the weights: of a sub-pixel convolution, the convolution inside."""
    layer = codec.get_submodule(name)
    layer = layer.inner if isinstance(layer, SubpelConv) else layer
    assert isinstance(layer, Weighted), name
    return layer


def convolution(codec: nn.Module, name: str) -> Convolution:
    """`weighted` of what is known to be a convolution."""
    layer = weighted(codec, name)
    assert isinstance(layer, Convolution), name
    return layer


def output_dim(layer: nn.Module) -> int:
    """The weight's dimension of output channels: 1 for transposed convolutions, else 0."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def _channels_of_outputs(codec: nn.Module, member: Member) -> Tensor:
    layer = codec.get_submodule(member.layer)
    repeat = layer.factor**2 if isinstance(layer, SubpelConv) else 1
    weight = original(weighted(codec, member.layer))
    channels = torch.full((weight.shape[output_dim(layer)] // repeat,), -1, device=weight.device)
    for channel, outputs in enumerate(member.channels):
        channels[list(outputs)] = channel
    return channels.repeat_interleave(repeat)


def original(layer: nn.Module) -> Tensor:
    """A layer's weight behind its masks."""
    masked = parametrize.is_parametrized(layer, "weight")
    holder = layer.get_submodule("parametrizations.weight") if masked else layer
    weight = holder.original if masked else holder.weight
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def filter_norms(producers: Sequence[tuple[Weighted, Tensor]], size: int) -> Tensor:
    """(`size`,): root mean square over all unmasked weights that produce each of the channels."""
    squares: Tensor | float = 0.0
    entries: Tensor | float = 0.0
    for layer, channels in producers:
        weight, dim = original(layer), output_dim(layer)
        squares = squares + sum_by_channel(weight.square(), channels, size, dim)
        entries = entries + sum_by_channel(torch.ones_like(weight), channels, size, dim)
    return torch.as_tensor(squares / entries).sqrt()


def relative_norms(codec: VideoCodec, group: Group) -> Tensor:
    """(C,): norms of a codec without masks, in their mean: what one-shot pruning goes by.

    Without values, on shapes alone, they are such that every group loses an equal share.
    """
    if not has_values(codec):
        return torch.arange(group.size, 0, -1) / group.size
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
