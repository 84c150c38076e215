"""Planning without weights: channel groups, costs and equal shares from shapes alone."""

import copy

import pytest
import torch
from plugins import Plugin, conv
from recipe_text import load, write

import vcodecs
from prune.groups import verify
from prune.groups.find import find_groups
from prune.groups.weights import relative_norms
from prune.pipeline.job import Job
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


@pytest.mark.parametrize(
    ("said", "preset"),
    [
        ("", "official"),
        ("\n  checkpoint: dcvc_small", "small"),
        ("\n  preset: base\n  checkpoint: dcvc_small", "base"),
    ],
)
def test_the_preset_is_the_one_that_the_recipe_means(tmp_path, said, preset):
    path = write(tmp_path, "\n  preset: tiny", said)
    codec = Job(load(path), tmp_path, on_shapes=True).teacher
    assert codec.preset == preset and all(p.is_meta for p in codec.parameters())


class Many(torch.nn.Module):
    """The sum of many branches, each as loud as what it reads."""

    def __init__(self, width):
        super().__init__()
        self.branches = torch.nn.ModuleList(conv(width, width) for _ in range(40))

    def forward(self, x):
        for _ in range(3):
            x = sum(branch(x) for branch in self.branches)
        return x


class Growing(Plugin):
    name = "growing"
    make = staticmethod(Many)


@torch.no_grad()
def test_the_trials_weights_do_not_let_a_loop_over_frames_grow_without_bound():
    """Else rounding errors would be as large as what tells removing from masking."""
    codec, frames = Growing().eval(), torch.rand(4, 3, 64, 64)

    def loudest(shaken):
        return max(float(x.abs().max()) for x in verify._results(shaken, frames))

    loud = copy.deepcopy(codec)
    verify._draw_weights(loud, verify.GAINS[0])
    assert loudest(loud) > verify.LARGEST > loudest(verify._shaken(codec, frames))
