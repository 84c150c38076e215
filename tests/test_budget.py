"""The cost model: MACs of the decoder as a function of the channels that each group keeps."""

import copy

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import shaken

import vcodecs
from prune.groups.find import find_groups
from prune.groups.removal import remove_from
from prune.measure.macs import decoder_macs
from prune.sparsify.cost import CostModel

KINDS = toys.WELL_BEHAVED


class Subject:
    """A codec with its groups and its cost model at 64x64."""

    def __init__(self, codec):
        self.codec = codec
        self.channels = find_groups(codec)
        self.cost = CostModel(codec, self.channels, 64, 64)
        self.sizes = [group.size for group in self.channels.groups]

    def shrunk_macs(self, counts):
        """Counted MACs with the last `counts` channels of every group left."""
        shrunk = copy.deepcopy(self.codec)
        groups = self.channels.groups
        kept = {g.name: range(g.size - n, g.size) for g, n in zip(groups, counts, strict=True)}
        remove_from(shrunk, groups, kept)
        return decoder_macs(shrunk, 64, 64)


TINY = Subject(shaken(vcodecs.create("dcvc", "tiny")))
TOYS = {kind.__name__: Subject(kind()) for kind in KINDS}


def counts_of(subject):
    return st.tuples(*(st.integers(1, size) for size in subject.sizes))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(counts=counts_of(TINY))
def test_the_model_of_dcvc_is_exactly_what_is_counted_after_shrinking(counts):
    counted = TINY.shrunk_macs(counts)
    tensor = torch.tensor(counts)
    assert round(float(TINY.cost.total(tensor))) == counted.total
    assert float(TINY.cost.total(tensor)) == pytest.approx(counted.total, rel=1e-12)
    for module in ("mvDecoder_part1", "contextualDecoder_part1", "feature_extract"):
        total = float(TINY.cost.total(tensor, [module]))
        assert total == pytest.approx(counted.by_module[module], rel=1e-12)


@pytest.mark.parametrize("name", TOYS)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_model_of_any_codec_is_exactly_what_is_counted_after_shrinking(name, data):
    subject = TOYS[name]
    counts = data.draw(counts_of(subject))
    total = float(subject.cost.total(torch.tensor(counts)))
    assert total == pytest.approx(subject.shrunk_macs(counts).total, rel=1e-12)


def test_the_official_codec_at_full_width_costs_what_is_counted():
    codec = vcodecs.create("dcvc", "official")
    cost = CostModel(codec, find_groups(codec), 1088, 1920)
    assert float(cost.total(cost.sizes)) == decoder_macs(codec, 1088, 1920).total


def test_the_model_is_differentiable_and_its_gradient_is_the_slope():
    counts = torch.tensor(TINY.sizes, dtype=torch.float64) * 0.7
    assert torch.autograd.gradcheck(TINY.cost.fraction, counts.requires_grad_())
    (slope,) = torch.autograd.grad(TINY.cost.fraction(counts), counts)
    assert (slope > 0).all()


def test_fractions_are_of_the_dense_decoder_or_of_the_named_modules():
    sizes = TINY.cost.sizes
    assert float(TINY.cost.fraction(sizes)) == 1
    assert float(TINY.cost.fraction(sizes, ["feature_extract"])) == 1
    half = sizes / 2
    everywhere, here = TINY.cost.fraction(half), TINY.cost.fraction(half, ["feature_extract"])
    macs = decoder_macs(TINY.codec, 64, 64)
    dense = macs.by_module["feature_extract"]
    assert float(here) == pytest.approx(float(TINY.cost.total(half, ["feature_extract"])) / dense)
    assert float(everywhere) == pytest.approx(float(TINY.cost.total(half)) / macs.total)


def test_channels_of_other_modules_change_a_modules_cost_only_where_it_reads_them():
    names = [group.name for group in TINY.channels.groups]
    fewer = TINY.cost.sizes.clone()
    fewer[names.index("feature_extract.0")] -= 4
    assert float(TINY.cost.fraction(fewer, ["context_refine"])) < 1
    assert float(TINY.cost.fraction(fewer, ["priorDecoder"])) == 1


def test_the_least_is_the_cost_at_the_floors():
    floors = [1] * len(TINY.sizes)
    least = TINY.cost.least(None, floors)
    assert least == pytest.approx(
        TINY.shrunk_macs(floors).total / TINY.shrunk_macs(TINY.sizes).total
    )
    assert TINY.cost.least(["feature_extract"], TINY.sizes) == 1


def test_float32_counts_do_not_lose_precision():
    counts = TINY.cost.sizes.float()
    assert float(TINY.cost.total(counts)) == decoder_macs(TINY.codec, 64, 64).total
