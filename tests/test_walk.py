"""The walk over the dependency graph finds what Torch-Pruning's own does."""

import pytest

import vcodecs
from prune.groups.grouping import CONVOLUTIONS
from prune.groups.trace import trace


@pytest.mark.parametrize("name", ["dcvc", "fvc", "dcvc_hem_intra"])
def test_the_walk_pulls_along_what_torch_pruning_would(name):
    traced = trace(vcodecs.create(name, "tiny"))
    graph = traced.graph
    layers = [m for m in traced.probe.modules() if isinstance(m, CONVOLUTIONS)]
    tried = 0
    for layer in layers:
        if layer not in graph.module2node:
            continue
        pruner = graph.get_pruner_of_module(layer)
        every = range(pruner.get_out_channels(layer))
        for indices in (every, every[1:3]):
            theirs = graph.get_pruning_group(layer, pruner.prune_out_channels, list(indices))
            expected = {
                (item.dep.target.module, item.dep.handler): set(item.idxs) for item in theirs
            }
            for apart in (True, False):
                found = traced.walk.pulled_along(layer, pruner.prune_out_channels, indices, apart)
                assert {(p.layer, p.prune): set(p.indices) for p in found} == expected
            tried += 1
    assert tried > 40


def test_each_channel_is_told_what_it_goes_for():
    traced = trace(vcodecs.create("dcvc", "tiny"))
    layer = traced.layer("contextualDecoder_part2.0")
    prune = traced.graph.get_pruner_of_module(layer).prune_out_channels
    first, *others = traced.walk.pulled_along(layer, prune, [0, 2])
    assert (first.layer, first.indices, first.roots) == (layer, [0, 2], [0, 2])
    assert others
    assert all(set(p.roots) == {0, 2} and len(p.roots) == len(p.indices) for p in others)
