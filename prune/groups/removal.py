"""Channels physically removed from a codec's layers, by Torch-Pruning."""

from collections.abc import Iterable, Mapping, Sequence

import torch_pruning as tp
from torch import nn

from prune.groups.channels import Group, is_boundary
from prune.groups.layer_rules import custom_pruners
from vcodecs import VideoCodec


def remove_from(
    codec: VideoCodec, groups: Iterable[Group], kept: Mapping[str, Sequence[int]]
) -> None:
    """`remove` for groups that are known already."""
    gone: dict[tuple[str, str], set[int]] = {}
    for group in groups:
        removed = set(range(group.size)) - set(kept[group.name])
        for member in group.members:
            if not is_boundary(member.layer):
                indices = gone.setdefault((member.layer, member.side), set())
                indices.update(i for c in removed for i in member.channels[c])
    wanted = {name: parameter.requires_grad for name, parameter in codec.named_parameters()}
    pruners = tp.DependencyGraph()
    for kind, pruner in custom_pruners().items():
        pruners.register_customized_layer(kind, pruner)
    for (layer, side), indices in gone.items():
        if indices:
            _cut(codec, layer, side, sorted(indices), pruners)
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(wanted[name])


def _cut(
    codec: VideoCodec, layer: str, side: str, indices: list[int], pruners: tp.DependencyGraph
) -> None:
    """Remove these channels of one layer, or of a parameter of the codec's own."""
    parent, _, name = layer.rpartition(".")
    owner = codec.get_submodule(parent)
    target = getattr(owner, name)
    pruner = pruners.get_pruner_of_module(target)
    if isinstance(target, nn.Parameter):
        # Torch-Pruning's rule for these: the last dimension that is not 1 holds the channels.
        pruner.pruning_dim = max(d for d, count in enumerate(target.shape) if count > 1)
        setattr(owner, name, pruner.prune_out_channels(target, indices))
    elif side == "in":
        pruner.prune_in_channels(target, indices)
    else:
        pruner.prune_out_channels(target, indices)
