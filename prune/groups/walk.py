"""What has to go along when channels of a layer go: a walk over Torch-Pruning's dependency graph.

It finds what `DependencyGraph.get_pruning_group` finds. That one works out anew for every walk how
the graph's channels correspond, and follows all channels again wherever some of them arrive; where
features meet again and again, as in DCVC-HEM, it takes minutes. Here each pair of a channel and of
what it goes for is followed once.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch_pruning as tp
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency.index_mapping import update_index_mapping


class Pulled(NamedTuple):
    """Channels `indices` of `layer`; each goes since its channel of `roots` of the first one does.

    `prune`: Torch-Pruning's function for the side of the layer that they are on.
    """

    layer: nn.Module
    prune: Callable
    indices: list[int]
    roots: list[int]


class Walk:
    """Walks over one graph, which must not change between them."""

    def __init__(self, graph: tp.DependencyGraph) -> None:
        self._graph = graph
        update_index_mapping(graph)

    def pulled_along(
        self, layer: nn.Module, prune: Callable, indices: Iterable[int], apart: bool = True
    ) -> list[Pulled]:
        """All that goes with these channels of one side of a layer, itself first.

        Without `apart` it is not told which of them each goes for: all roots are 0. Where a whole
        layer goes together that is far less to follow.
        """
        root = self._graph.module2node[layer]
        if isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1:
            prune = tp.prune_depthwise_conv_out_channels  # its inputs are its outputs
        start = [_HybridIndex(idx=i, root_idx=i if apart else 0) for i in indices]
        found: dict[tuple[Any, Callable], dict[tuple[int, int], None]] = {
            (root, prune): dict.fromkeys(start)
        }
        """By node and side the pairs of a channel and its root, in the order of their finding."""
        pending = [(root, prune, start)]
        while pending:
            node, function, pairs = pending.pop()
            for edge in node.dependencies:
                if not edge.is_triggered_by(function):
                    continue
                known = found.setdefault((edge.target, edge.handler), {})
                new = [pair for pair in _mapped(edge, pairs) if pair not in known]
                if new:
                    known.update(dict.fromkeys(new))
                    pending.append((edge.target, edge.handler, new))
        return [
            Pulled(node.module, function, *_by_index(pairs))
            for (node, function), pairs in found.items()
            if pairs
        ]


def _mapped(edge: Any, pairs: list) -> list:
    """Channels behind a concatenation, slice or reshape as the target counts them."""
    for mapping in edge.index_mapping:
        if mapping is not None:
            pairs = mapping(pairs)
    return pairs


def _by_index(pairs: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Channels and roots; where several lead to one channel, the first counts."""
    first: dict[int, int] = {}
    for index, root in pairs:
        first.setdefault(index, root)
    return list(first), list(first.values())
