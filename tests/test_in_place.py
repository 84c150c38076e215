"""One-shot pruning in place: the same as the usual way, without a second codec."""

import copy

import pytest
import torch
from torch import nn
from toys import shaken

import vcodecs
from prune.groups.find import find_groups
from prune.groups.shrink import shrunk_copy
from prune.pipeline.in_place import shrink_in_place, without_values
from prune.recipe.schema import MeasureSection, PruneSection
from prune.sparsify.budget import cost_of
from prune.sparsify.selection import by_magnitude
from vcodecs import UserError

MEASURE = MeasureSection(height=64, width=64)


def settings(budget):
    return PruneSection.model_validate({"budget": budget, "align": 1})


@pytest.fixture
def codec():
    return shaken(vcodecs.create("dcvc", "tiny")).eval()


def test_the_same_channels_go_as_from_a_copy(codec):
    channels = find_groups(codec)
    cost = cost_of(0.5, codec, channels, MEASURE)
    kept = by_magnitude(codec, channels, cost, settings(0.5))
    expected = shrunk_copy(codec, kept, channels).state_dict()
    assert shrink_in_place(codec, settings(0.5), MEASURE) == kept
    found = codec.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_no_weights_are_ever_copied(codec, monkeypatch):
    plain = nn.Parameter.__deepcopy__

    def copied(parameter, memo):
        assert parameter.is_meta or id(parameter) in memo
        return plain(parameter, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", copied)
    shrink_in_place(codec, settings(0.5), MEASURE)


def test_a_budget_that_cannot_be_met_leaves_the_codec_as_it_was(codec):
    before = copy.deepcopy(codec.state_dict())
    with pytest.raises(UserError, match="budget"):
        shrink_in_place(codec, settings(0.001), MEASURE)
    after = codec.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_copy_without_values_has_the_same_shapes(codec):
    shapes = without_values(codec)
    assert all(value.is_meta for value in shapes.state_dict().values())
    assert {k: v.shape for k, v in shapes.state_dict().items()} == {
        k: v.shape for k, v in codec.state_dict().items()
    }
    assert not any(value.is_meta for value in codec.state_dict().values())
