"""One-shot pruning of a codec that fits into memory once: layer by layer, in place.

Channel groups and costs are found on shapes alone; of the weights only norms are taken, a layer at
a time, before each layer gives its place to its smaller self. There are never two codecs.
"""

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from prune.groups.find import find_groups
from prune.groups.removal import remove_from
from prune.recipe.schema import MeasureSection, PruneSection
from prune.sparsify.budget import cost_of
from prune.sparsify.selection import by_magnitude
from vcodecs import UserError, VideoCodec

Module = TypeVar("Module", bound=nn.Module)
Tell = Callable[[str], None]


def shrink_in_place(
    codec: VideoCodec,
    settings: PruneSection,
    measure: MeasureSection,
    tell: Tell = lambda _: None,
) -> dict[str, list[int]]:
    """Remove from `codec` itself the channels that magnitude and budget choose.

    Returns by group what is kept, for `vcodecs.checkpoints.save`. What is removed cannot be proved
    against a masked codec, which would be a second one. `tell` hears what is done next. UserError
    where no channel can be removed, or no choice meets the budget; the codec is then as it was.
    """
    codec.eval()
    tell("channel groups, on shapes")
    shapes = without_values(codec)
    channels = find_groups(shapes)
    if not channels.groups:
        raise UserError(f"codec {codec.name}: no channel of its decoder can be removed")
    tell("costs, on shapes")
    cost = cost_of(settings.budget, shapes, channels, measure)
    tell("choice, by norms")
    kept = by_magnitude(codec, channels, cost, settings)
    tell("removal, in place")
    remove_from(codec, channels.groups, kept)
    return kept


def without_values(module: Module) -> Module:
    """A copy whose parameters and buffers are shapes alone (on torch's "meta" device)."""
    tensors = [*module.parameters(), *module.buffers()]
    memo: dict[int, object] = {}
    for tensor in tensors:
        shape = tensor.detach().to("meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(shape, tensor.requires_grad) if is_parameter else shape
    return copy.deepcopy(module, memo)
