"""Planning without weights: channel groups, costs and equal shares from shapes alone."""

import pytest
import torch

import vcodecs
from prune.groups.find import find_groups
from prune.groups.weights import relative_norms
from prune.pipeline.plan import planned
from prune.recipe.schema import PruneSection
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import by_magnitude

SIZE = (128, 128)


def without_weights(name="dcvc"):
    with torch.device("meta"):
        return vcodecs.create(name, "tiny").to("meta").eval()


@pytest.fixture(scope="module")
def channels():
    return find_groups(without_weights())


def test_the_groups_are_those_of_a_codec_with_weights(channels):
    found = find_groups(vcodecs.create("dcvc", "tiny").eval())
    assert channels.groups == found.groups
    assert channels.fixed == found.fixed


def test_a_budget_is_met_and_counted_without_weights(channels):
    codec = without_weights()
    cost = CostModel(codec, channels, *SIZE)
    settings = PruneSection.model_validate({"budget": 0.5, "align": 1})
    kept = by_magnitude(codec, channels, cost, settings)
    plan = planned(codec, channels, kept, 0.5, SIZE)
    assert plan.macs.sparse / plan.macs.dense == pytest.approx(0.5, abs=0.01)


def test_one_threshold_takes_an_equal_share_of_every_group(channels):
    for group in channels.groups:
        scores = relative_norms(without_weights(), group)
        assert (scores > 0.5).sum() == group.size - group.size // 2


def test_nothing_was_allocated():
    assert all(value.is_meta for value in without_weights().state_dict().values())
