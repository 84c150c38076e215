"""Rules by which Torch-Pruning removes channels of layers that it does not know.

Registered by type: Torch-Pruning looks custom pruners up by class, and by instance fails.
"""

from collections.abc import Sequence

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch_pruning.pruner.function import BasePruningFunc
from torchvision.ops import DeformConv2d

from vcodecs.layers import GDN, CompressAIGDN, GroupedConv, MaskedConv, SubpelConv


class GDNPruner(BasePruningFunc):
    """beta and both dimensions of gamma lose the same channels; input and output are one."""

    TARGET_MODULES = GDN

    def prune_out_channels(self, layer: GDN, idxs: Sequence[int]) -> GDN:
        kept = _rest(layer.beta.numel(), idxs)
        layer.beta = _parameter(layer.beta, layer.beta[kept])
        layer.gamma = _parameter(layer.gamma, layer.gamma[kept][:, kept])
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: GDN) -> int:
        return layer.beta.numel()

    get_in_channels = get_out_channels


class SubpelPruner(BasePruningFunc):
    """Channel c behind the pixel shuffle is factor^2 consecutive outputs of the convolution."""

    TARGET_MODULES = SubpelConv

    def prune_out_channels(self, layer: SubpelConv, idxs: Sequence[int]) -> SubpelConv:
        square = layer.factor**2
        tp.prune_conv_out_channels(layer[0], [i * square + k for i in idxs for k in range(square)])
        return layer

    def prune_in_channels(self, layer: SubpelConv, idxs: Sequence[int]) -> SubpelConv:
        tp.prune_conv_in_channels(layer[0], idxs)
        return layer

    def get_out_channels(self, layer: SubpelConv) -> int:
        return layer.outputs

    def get_in_channels(self, layer: SubpelConv) -> int:
        return layer.inner.in_channels


class MaskedConvPruner(BasePruningFunc):
    """A convolution whose mask buffer shrinks along."""

    TARGET_MODULES = MaskedConv

    def prune_out_channels(self, layer: MaskedConv, idxs: Sequence[int]) -> MaskedConv:
        layer.mask = layer.mask[_rest(layer.out_channels, idxs)]
        tp.prune_conv_out_channels(layer, idxs)
        return layer

    def prune_in_channels(self, layer: MaskedConv, idxs: Sequence[int]) -> MaskedConv:
        layer.mask = layer.mask[:, _rest(layer.in_channels, idxs)]
        tp.prune_conv_in_channels(layer, idxs)
        return layer

    def get_out_channels(self, layer: MaskedConv) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: MaskedConv) -> int:
        return layer.in_channels


class DeformConvPruner(BasePruningFunc):
    """torchvision's deformable convolution, whose offsets come from outside."""

    TARGET_MODULES = DeformConv2d

    def prune_out_channels(self, layer: DeformConv2d, idxs: Sequence[int]) -> DeformConv2d:
        kept = _rest(layer.out_channels, idxs)
        layer.weight = _parameter(layer.weight, layer.weight[kept])
        if layer.bias is not None:
            layer.bias = _parameter(layer.bias, layer.bias[kept])
        layer.out_channels = len(kept)
        return layer

    def prune_in_channels(self, layer: DeformConv2d, idxs: Sequence[int]) -> DeformConv2d:
        kept = _rest(layer.in_channels, idxs)
        layer.weight = _parameter(layer.weight, layer.weight[:, kept])
        layer.in_channels = len(kept)
        return layer

    def get_out_channels(self, layer: DeformConv2d) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: DeformConv2d) -> int:
        return layer.in_channels


class GroupNormPruner(BasePruningFunc):
    """A GroupNorm, of which whole groups go."""

    TARGET_MODULES = nn.GroupNorm

    def prune_out_channels(self, layer: nn.GroupNorm, idxs: Sequence[int]) -> nn.GroupNorm:
        kept, each = _rest(layer.num_channels, idxs), layer.num_channels // layer.num_groups
        for name in ("weight", "bias"):
            if (old := getattr(layer, name)) is not None:
                setattr(layer, name, _parameter(old, old[kept]))
        layer.num_channels, layer.num_groups = len(kept), len(kept) // each
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.GroupNorm) -> int:
        return layer.num_channels

    get_in_channels = get_out_channels


def cut_whole_groups(layer: _ConvNd | DeformConv2d, outputs: Sequence[int]) -> None:
    """Take these outputs, which are all of some of its groups, out of a grouped convolution.

    The inputs of the groups go with them; a depthwise convolution has as many groups as channels.
    """
    groups, made, read = layer.groups, layer.out_channels, layer.in_channels
    gone = {i * groups // made for i in outputs}
    kept = torch.tensor([g for g in range(groups) if g not in gone])
    transposed = isinstance(layer, _ConvTransposeNd)
    rows = (read if transposed else made) // groups
    weight = layer.weight.unflatten(0, (groups, rows))[kept].flatten(0, 1)
    layer.weight = _parameter(layer.weight, weight)
    if layer.bias is not None:
        bias = layer.bias.unflatten(0, (groups, made // groups))[kept].flatten()
        layer.bias = _parameter(layer.bias, bias)
    layer.out_channels, layer.in_channels = (n // groups * len(kept) for n in (made, read))
    layer.groups = len(kept)


class GroupedConvPruner(BasePruningFunc):
    """A grouped convolution whose groups lose as many inputs, and as many outputs, each."""

    TARGET_MODULES = GroupedConv

    def prune_out_channels(self, layer: GroupedConv, idxs: Sequence[int]) -> GroupedConv:
        return tp.prune_conv_out_channels(layer, idxs)

    def prune_in_channels(self, layer: GroupedConv, idxs: Sequence[int]) -> GroupedConv:
        inputs, outputs = (n // layer.groups for n in (layer.in_channels, layer.out_channels))
        gone = [[i - g * inputs for i in idxs if i // inputs == g] for g in range(layer.groups)]
        parts = layer.weight.split(outputs)
        left = [part[:, _rest(inputs, own)] for part, own in zip(parts, gone, strict=True)]
        layer.weight = _parameter(layer.weight, torch.cat(left))
        layer.in_channels -= len(idxs)
        return layer

    def get_out_channels(self, layer: GroupedConv) -> int:
        return layer.out_channels

    def get_in_channels(self, layer: GroupedConv) -> int:
        return layer.in_channels


def custom_pruners() -> dict[type[nn.Module], BasePruningFunc]:
    """One pruner for each type, freshly made."""
    return {
        GDN: GDNPruner(),
        CompressAIGDN: GDNPruner(),
        SubpelConv: SubpelPruner(),
        MaskedConv: MaskedConvPruner(),
        GroupedConv: GroupedConvPruner(),
        DeformConv2d: DeformConvPruner(),
        nn.GroupNorm: GroupNormPruner(),
    }


def _rest(count: int, removed: Sequence[int]) -> list[int]:
    gone = set(removed)
    return [i for i in range(count) if i not in gone]


def _parameter(old: Tensor, value) -> nn.Parameter:  # noqa: ANN001
    return nn.Parameter(value.detach().clone(), requires_grad=old.requires_grad)
