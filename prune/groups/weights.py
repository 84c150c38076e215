"""The weights that make a group's channels: which they are, how large, and set to zero."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrize
from torchvision.ops import DeformConv2d

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


Convolution: TypeAlias = (
    nn.Conv1d
    | nn.Conv2d
    | nn.Conv3d
    | nn.ConvTranspose1d
    | nn.ConvTranspose2d
    | nn.ConvTranspose3d
    | DeformConv2d
)
Weighted: TypeAlias = Convolution | nn.Linear


class Followed(NamedTuple):
    """A parameter with one entry, or row of entries along `dim`, for each channel of a group."""

    owner: nn.Module
    key: str
    dim: int
    channels: Tensor
    """(size along `dim`,): the channel of every index, -1 for what is in no channel."""


def followed_parameters(codec: nn.Module, group: Group) -> list[Followed]:
    """Scales and shifts of normalisations, and parameters outside layers, that go along.

    They are masked with the channels: removing what is zero, but shifted, would not be masking.
    What the codec itself holds stays: a mask would have to be a module of the codec's.
    """
    found = []
    for member in group.members:
        if member.side != "norm":
            continue
        if member.dim is not None:
            parent, _, key = member.layer.rpartition(".")
            owners = [(codec.get_submodule(parent), key, member.dim)] if parent else []
        else:
            layer = codec.get_submodule(member.layer)
            shifted = isinstance(layer, _NormBase | nn.GroupNorm) and layer.affine
            owners = [(layer, key, 0) for key in ("weight", "bias")] if shifted else []
        for owner, key, dim in owners:
            value = original(owner, key)
            channels = torch.full((value.shape[dim],), -1, device=value.device)
            for channel, indices in enumerate(member.channels):
                channels[list(indices)] = channel
            found.append(Followed(owner, key, dim, channels))
    return found


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
    """The weight's dimension of output channels: 1 for transposed convolutions, else 0.

    A grouped transposed convolution, whose channels go by whole groups, has them by its inputs.
    """
    return 1 if isinstance(layer, _ConvTransposeNd) and layer.groups == 1 else 0


def _channels_of_outputs(codec: nn.Module, member: Member) -> Tensor:
    layer = codec.get_submodule(member.layer)
    repeat = layer.factor**2 if isinstance(layer, SubpelConv) else 1
    inner = weighted(codec, member.layer)
    weight = original(inner)
    count = member_count(inner) // repeat
    channels = torch.full((count,), -1, device=weight.device)
    for channel, outputs in enumerate(member.channels):
        channels[list(outputs)] = channel
    return channels.repeat_interleave(repeat)


def along_weight(layer: Weighted, channels: Tensor) -> Tensor:
    """The channels of a layer's outputs, as those of its weight along `output_dim`."""
    if isinstance(layer, _ConvTransposeNd) and layer.groups > 1:
        inputs = layer.in_channels // layer.groups
        return channels.unflatten(0, (layer.groups, -1))[:, 0].repeat_interleave(inputs)
    return channels


def member_count(layer: Weighted) -> int:
    """The number of channels that a layer makes."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def original(layer: nn.Module, key: str = "weight") -> Tensor:
    """A layer's weight, or another parameter of it, behind its masks."""
    masked = parametrize.is_parametrized(layer, key)
    holder = layer.get_submodule(f"parametrizations.{key}") if masked else layer
    weight = holder.original if masked else getattr(holder, key)
    assert isinstance(weight, Tensor)
    return weight


@torch.no_grad()
def filter_norms(producers: Sequence[tuple[Weighted, Tensor]], size: int) -> Tensor:
    """(`size`,): root mean square over all unmasked weights that produce each of the channels."""
    squares: Tensor | float = 0.0
    entries: Tensor | float = 0.0
    for layer, channels in producers:
        weight, dim = original(layer), output_dim(layer)
        channels = along_weight(layer, channels)
        squares = squares + sum_by_channel(weight.square(), channels, size, dim)
        each = weight.new_full(channels.shape, weight.numel() / channels.numel())
        entries = entries + sum_by_channel(each, channels, size, 0)
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
        rows = along_weight(layer, channels)
        rows = torch.isin(rows, gone.to(rows.device)).nonzero().flatten()
        layer.weight.index_fill_(output_dim(layer), rows, 0)
        if layer.bias is not None:
            rows = torch.isin(channels, gone.to(channels.device)).nonzero().flatten()
            layer.bias.index_fill_(0, rows, 0)
    for owner, key, dim, channels in followed_parameters(codec, group):
        rows = torch.isin(channels, gone.to(channels.device)).nonzero()[:, 0]
        getattr(owner, key).index_fill_(dim, rows, 0)
