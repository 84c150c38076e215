"""How Torch-Pruning removes channels of the layers that it does not know.

Registered by type: Torch-Pruning looks custom pruners up by class, and by instance fails.
"""

from collections.abc import Sequence

import torch_pruning as tp
from torch import nn
from torch_pruning.pruner.function import BasePruningFunc

from vcodecs.gdn import GDN, gdn_types
from vcodecs.layers import MaskedConv, SubpelConv


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


def custom_pruners() -> dict[type[nn.Module], BasePruningFunc]:
    """One pruner for each type, freshly made."""
    return {
        **{kind: GDNPruner() for kind in gdn_types()},
        SubpelConv: SubpelPruner(),
        MaskedConv: MaskedConvPruner(),
    }


def _rest(count: int, removed: Sequence[int]) -> list[int]:
    gone = set(removed)
    return [i for i in range(count) if i not in gone]


def _parameter(old: nn.Parameter, value) -> nn.Parameter:  # noqa: ANN001
    return nn.Parameter(value.detach().clone(), requires_grad=old.requires_grad)
