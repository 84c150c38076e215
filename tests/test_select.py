"""The final choice of channels: budget, alignment, floors, and the best channels kept."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vcodecs
from prune.groups.channels import Group, Member
from prune.groups.find import find_groups
from prune.groups.weights import relative_norms
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import allowed_counts, choose
from vcodecs import UserError

BUDGETS = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
WITHIN = 0.01 + 1e-9


@cache
def subject(preset):
    torch.manual_seed(0)
    codec = vcodecs.create("dcvc", preset)
    groups = find_groups(codec)
    return codec, groups.groups, CostModel(codec, groups, 1088, 1920)


@cache
def magnitudes(preset):
    codec, groups, _ = subject(preset)
    return tuple(relative_norms(codec, group).detach() for group in groups)


def random_scores(groups, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(g.size, generator=generator) for g in groups)


def fraction(cost, groups, kept):
    return float(cost.fraction(torch.tensor([len(kept[g.name]) for g in groups])))


def check(preset, scores, budget, align, floor=0.1):
    """A choice that keeps every promise; returns it."""
    _, groups, cost = subject(preset)
    kept = choose(groups, scores, cost, budget, align, floor)
    assert kept.keys() == {g.name for g in groups}
    assert abs(fraction(cost, groups, kept) - budget) <= WITHIN
    for group, score in zip(groups, scores, strict=True):
        indices = kept[group.name]
        assert indices == sorted(set(indices))
        assert set(indices) <= set(range(group.size))
        assert len(indices) % align == 0 or len(indices) == group.size
        assert len(indices) >= max(1, floor * group.size)
        gone = sorted(set(range(group.size)) - set(indices))
        if gone:
            assert float(score[indices].min()) >= float(score[gone].max())
    return kept


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    "preset, align", [("tiny", 1), ("tiny", 2), ("small", 1), ("small", 2)], ids=str
)
def test_small_codecs_meet_every_budget(preset, align, budget):
    check(preset, magnitudes(preset), budget, align)
    check(preset, random_scores(subject(preset)[1], 1), budget, align)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("align", [8, 16])
def test_the_official_codec_meets_every_budget_in_whole_vectors(align, budget):
    check("official", magnitudes("official"), budget, align)


def test_an_alignment_that_cannot_come_close_enough_is_the_users_to_lower():
    _, groups, cost = subject("tiny")
    with pytest.raises(UserError, match=r"0.9\b.*lower .*align"):
        choose(groups, magnitudes("tiny"), cost, 0.9, 64, 0.1)


@pytest.mark.parametrize("preset, align, floor", [("tiny", 1, 0.9), ("tiny", 8, 0.1)])
def test_a_budget_below_what_floors_and_alignment_allow_is_an_error(preset, align, floor):
    _, groups, cost = subject(preset)
    with pytest.raises(UserError, match=r"0.05.*at least 0\.\d+ of the MACs stay"):
        choose(groups, magnitudes(preset), cost, 0.05, align, floor)


class Proportional:
    """A cost that is the kept part of the channels of one group."""

    def __init__(self, size):
        self.size = size

    of = "MACs"

    def fraction(self, counts):
        return counts.sum(-1) / self.size

    def after_moves(self, counts, moves):
        after = counts + moves
        return self.fraction(after), self.fraction(after[:, None] + moves)


@pytest.mark.parametrize(
    "budget, allowed", [(0.511, True), (0.529, True), (0.532, False), (0.549, False)]
)
def test_a_budget_is_met_within_a_hundredth_of_the_dense_macs_or_not_at_all(budget, allowed):
    scores = [torch.arange(50.0)]
    if allowed:
        kept = choose([group_of(50)], scores, Proportional(50), budget, 26, 0.0)
        assert kept == {"layer": list(range(24, 50))}
        return
    with pytest.raises(UserError, match=r"the nearest that counts by these widths reach is 0\.520"):
        choose([group_of(50)], scores, Proportional(50), budget, 26, 0.0)


def test_the_whole_budget_keeps_everything():
    _, groups, cost = subject("tiny")
    kept = choose(groups, magnitudes("tiny"), cost, 1.0, 1, 0.1)
    assert kept == {g.name: list(range(g.size)) for g in groups}


def test_the_same_scores_give_the_same_choice():
    scores = random_scores(subject("tiny")[1], 3)
    assert check("tiny", scores, 0.5, 2) == check("tiny", scores, 0.5, 2)


def test_a_group_that_scores_high_everywhere_keeps_more():
    _, groups, _ = subject("small")
    scores = list(random_scores(groups, 5))
    plain = check("small", tuple(scores), 0.5, 1)
    favoured = next(i for i, g in enumerate(groups) if g.name == "contextualDecoder_part2.0")
    scores[favoured] = scores[favoured] + 10
    favoured_count = len(check("small", tuple(scores), 0.5, 1)[groups[favoured].name])
    assert favoured_count == groups[favoured].size > len(plain[groups[favoured].name])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    budget=st.floats(0.2, 1),
    align=st.sampled_from([1, 2]),
    spread=st.floats(0, 10),
)
def test_any_scores_meet_any_possible_budget(seed, budget, align, spread):
    _, groups, _ = subject("tiny")
    scores = random_scores(groups, seed)
    offsets = torch.randn(len(groups), generator=torch.Generator().manual_seed(seed + 1)) * spread
    check("tiny", tuple(s + o for s, o in zip(scores, offsets, strict=True)), budget, align)


def test_what_moves_change_is_what_the_counts_after_them_cost():
    _, groups, cost = subject("small")
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([g.size // 2 for g in groups]).double()
    moves = torch.randint(-2, 3, (40, len(groups)), generator=generator)
    moves *= torch.rand(moves.shape, generator=generator) < 0.1
    single, pairs = cost.after_moves(counts, moves)
    assert torch.allclose(single, cost.fraction(counts + moves), rtol=1e-12)
    both = counts + moves[:, None] + moves[None]
    assert torch.allclose(pairs, cost.fraction(both), rtol=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(size=st.integers(1, 300), align=st.integers(1, 64), floor=st.floats(0, 0.99))
def test_allowed_counts_are_multiples_from_the_floor_on_and_the_whole(size, align, floor):
    counts = allowed_counts(group_of(size), align, floor)
    assert counts == sorted(set(counts))
    assert counts[-1] == size
    assert all(n % align == 0 and n >= floor * size and n >= 1 for n in counts[:-1])
    expected = [n for n in range(1, size) if n % align == 0 and n >= floor * size]
    assert counts[:-1] == expected


@pytest.mark.parametrize(
    ("width", "align", "expected"),
    [
        (8, 8, [2, 3, 4, 5, 6, 7, 8]),
        (8, 16, [2, 4, 6, 8]),
        (6, 8, [4, 8]),
        (6, 6, [2, 3, 4, 5, 6, 7, 8]),
        (2, 8, [4, 8]),
        (1, 3, [3, 6, 8]),
    ],
)
def test_channels_that_go_in_bundles_are_aligned_as_channels(width, align, expected):
    assert allowed_counts(group_of(8, width), align, 0.25) == expected


def group_of(size, width=1):
    rows = tuple(tuple(range(i * width, (i + 1) * width)) for i in range(size))
    return Group("layer", size, (Member("layer", "out", rows),))
