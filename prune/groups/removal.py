"""Channels physically removed from a codec's layers, by Torch-Pruning."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torchvision.ops import DeformConv2d

from prune.groups.channels import Group, is_boundary
from prune.groups.layer_rules import custom_pruners, cut_whole_groups
from vcodecs import VideoCodec
from vcodecs.layers import GroupedConv


def remove_from(
    codec: VideoCodec, groups: Iterable[Group], kept: Mapping[str, Sequence[int]]
) -> None:
    """`remove` for groups that are known already."""
    gone: dict[tuple[str, str, int | None], set[int]] = {}
    for group in groups:
        removed = set(range(group.size)) - set(kept[group.name])
        for member in group.members:
            if not is_boundary(member.layer):
                indices = gone.setdefault((member.layer, member.side, member.dim), set())
                indices.update(i for c in removed for i in member.channels[c])
    wanted = {name: parameter.requires_grad for name, parameter in codec.named_parameters()}
    pruners = tp.DependencyGraph()
    for kind, pruner in custom_pruners().items():
        pruners.register_customized_layer(kind, pruner)
    for (layer, side, dim), indices in gone.items():
        if indices and dim is not None:
            _cut_parameter(codec, layer, dim, sorted(indices))
        elif indices:
            _cut(codec, layer, side, sorted(indices), pruners)
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(wanted[name])


def _cut_parameter(codec: VideoCodec, name: str, dim: int, indices: list[int]) -> None:
    """Remove these entries along `dim` of a parameter or buffer that is in no layer."""
    parent, _, key = name.rpartition(".")
    owner = codec.get_submodule(parent)
    old = getattr(owner, key)
    left = [i for i in range(old.shape[dim]) if i not in set(indices)]
    new = old.detach().index_select(dim, torch.tensor(left, device=old.device))
    setattr(owner, key, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def _cut(
    codec: VideoCodec, layer: str, side: str, indices: list[int], pruners: tp.DependencyGraph
) -> None:
    """Remove these channels of one layer."""
    target = codec.get_submodule(layer)
    pruner = pruners.get_pruner_of_module(target)
    grouped = isinstance(target, _ConvNd | DeformConv2d) and target.groups > 1
    if side == "out" and grouped and not isinstance(target, GroupedConv):
        cut_whole_groups(target, indices)
    elif side == "in":
        pruner.prune_in_channels(target, indices)
    else:
        pruner.prune_out_channels(target, indices)
