"""The final choice of channels: budget met, counts aligned, no group below its floor."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prune.groups.channels import Channels, Group
from prune.groups.weights import relative_norms
from prune.recipe.schema import PruneSection
from prune.sparsify.budget import allowed_share
from prune.sparsify.cost import CostModel
from vcodecs import UserError, VideoCodec

TOLERANCE = 0.01
"""Allowed distance of the kept MACs from the budget, as a part of the dense MACs."""


def choose(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    cost: CostModel,
    budget: float,
    align: int,
    floor: float,
) -> dict[str, list[int]]:
    """Kept channel indices by group name.

    `scores`: by group (C,), comparable between groups, higher is better. One threshold over all
    scores meets the budget; counts are then rounded to multiples of `align` (or left whole), and
    moved by the cheapest steps until the budget is met as closely as these counts can.
    UserError when no choice is within 1 % of the dense MACs.
    """
    widths = _widths(groups, cost, budget, align, floor)
    counts = _threshold_counts(scores, widths, cost, budget)
    position = [_nearest(n, c) for n, c in zip(widths, counts, strict=True)]
    prices = [score - score.min() for score in scores]
    return _met(position, groups, widths, prices, cost, budget)


def choose_by_loss(
    groups: Sequence[Group],
    losses: Sequence[Tensor],
    cost: CostModel,
    budget: float,
    settings: PruneSection,
    exact: bool = True,
) -> dict[str, list[int]]:
    """The same where scores add up: `losses`, by group (C,), are what each channel's removal loses.

    All channels are there at first, and `align` at a time those go that lose the least for what
    they cost, until the budget is met; not `exact`: or as nearly as can be.
    """
    if exact:
        widths = _widths(groups, cost, budget, settings.align, settings.floor)
    else:
        widths = [allowed_counts(group, settings.align, settings.floor) for group in groups]
    everything = [len(n) - 1 for n in widths]
    return _met(everything, groups, widths, losses, cost, budget, exact)


def _widths(
    groups: Sequence[Group], cost: CostModel, budget: float, align: int, floor: float
) -> list[list[int]]:
    """Allowed counts by group; UserError when the least of them cost more than the budget."""
    widths = [allowed_counts(group, align, floor) for group in groups]
    least = float(cost.fraction(_tensor([n[0] for n in widths])))
    if least > budget + TOLERANCE:
        raise UserError(
            f"prune.budget {budget:g}: with align {align} and floor {floor:g} at least "
            f"{least:.3f} of the {cost.of} stay; lower `align` or `floor`, or raise the budget"
        )
    return widths


def _met(
    position: list[int],
    groups: Sequence[Group],
    widths: list[list[int]],
    prices: Sequence[Tensor],
    cost: CostModel,
    budget: float,
    exact: bool = True,
) -> dict[str, list[int]]:
    """The channels that stay when widths are moved, the least price first, to the budget."""
    position = _meet(position, widths, prices, cost, budget)
    if exact and abs(_fraction(position, widths, cost) - budget) > TOLERANCE:
        position = _around_coarse_widths(position, widths, prices, cost, budget)
    counts = [n[p] for n, p in zip(widths, position, strict=True)]
    reached = float(cost.fraction(_tensor(counts)))
    if exact and abs(reached - budget) > TOLERANCE:
        raise UserError(
            f"prune.budget {budget:g}: the nearest that counts by these widths reach is "
            f"{reached:.3f}; lower `prune.align`"
        )
    return {
        group.name: sorted(torch.topk(price, count).indices.tolist())
        for group, price, count in zip(groups, prices, counts, strict=True)
    }


def by_magnitude(
    codec: VideoCodec, channels: Channels, cost: CostModel, settings: PruneSection
) -> dict[str, list[int]]:
    """`choose` by the norms of a codec's weights alone: one-shot pruning."""
    scores = [relative_norms(codec, group) for group in channels.groups]
    s = settings
    share = allowed_share(s.budget, cost)
    return choose(channels.groups, scores, cost, share, s.align, s.floor)


def by_losses(
    channels: Channels, cost: CostModel, settings: PruneSection, losses: Sequence[Tensor]
) -> dict[str, list[int]]:
    """`choose_by_loss` for the settings' budget: one-shot pruning by what was measured."""
    share = allowed_share(settings.budget, cost)
    return choose_by_loss(channels.groups, losses, cost, share, settings)


def allowed_counts(group: Group, align: int, floor: float) -> list[int]:
    """Ascending: what makes multiples of `align` channels from the floor on, and all."""
    least = max(1, math.ceil(floor * group.size))
    step = align // math.gcd(align, group.width)
    return [n for n in range(step, group.size, step) if n >= least] + [group.size]


def _threshold_counts(
    scores: Sequence[Tensor], widths: list[list[int]], cost: CostModel, budget: float
) -> list[int]:
    """Counts of the channels above the one threshold that meets the budget, by bisection."""
    everything = torch.cat([score.double().cpu() for score in scores])
    low, high = float(everything.min()) - 1, float(everything.max()) + 1
    for _ in range(60):
        middle = (low + high) / 2
        counts = [
            max(n[0], int((score > middle).sum())) for score, n in zip(scores, widths, strict=True)
        ]
        if float(cost.fraction(_tensor(counts))) > budget:
            low = middle
        else:
            high = middle
    return counts


def _meet(
    position: list[int],
    widths: list[list[int]],
    scores: Sequence[Tensor],
    cost: CostModel,
    budget: float,
    frozen: int | None = None,
) -> list[int]:
    """Move counts width by width: the least loss of score for the MACs, then the best fit.

    The group `frozen` stays where it is, but for the fitting.
    """
    ranked = [torch.sort(s.double().cpu(), descending=True).values for s in scores]
    while True:
        here = _fraction(position, widths, cost)
        step = -1 if here > budget else 1
        best, best_price = None, math.inf
        possible = [(g, moved) for g in range(len(position)) if g != frozen
                    and (moved := _moved(position, widths, g, step)) is not None]  # fmt: skip
        reached = _fractions([moved for _, moved in possible], widths, cost)
        for (g, moved), there in zip(possible, reached, strict=True):
            if (there - budget) * step > 0 or there == here:
                continue  # past the budget: left to the fitting below
            first, last = sorted((widths[g][position[g]], widths[g][moved[g]]))
            value = float(ranked[g][first:last].sum()) + 1e-12
            price = value / abs(there - here) * -step
            if price < best_price:
                best, best_price = moved, price
        if best is None:
            return _fit(position, widths, cost, budget)
        position = best


def _around_coarse_widths(
    position: list[int],
    widths: list[list[int]],
    scores: Sequence[Tensor],
    cost: CostModel,
    budget: float,
) -> list[int]:
    """The first that meets the budget with one group a width further on and the others after it.

    One width of a group whose channels go several at a time may be more than all that is missing.
    Where no group helps, the position stays.
    """
    for g in range(len(position)):
        for step in (-1, 1):
            moved = _moved(position, widths, g, step)
            if moved is not None:
                found = _meet(moved, widths, scores, cost, budget, frozen=g)
                if abs(_fraction(found, widths, cost) - budget) <= TOLERANCE:
                    return found
    return position


def _fit(position: list[int], widths: list[list[int]], cost: CostModel, budget: float) -> list[int]:
    """The nearest to the budget within two single-width moves, repeated while it helps."""
    error = abs(_fraction(position, widths, cost) - budget)
    while error > TOLERANCE / 4:
        found = _nearest_moves(position, widths, cost, budget)
        if found is None or abs(_fraction(found, widths, cost) - budget) >= error - 1e-9:
            break
        position, error = found, abs(_fraction(found, widths, cost) - budget)
    return position


def _nearest_moves(
    position: list[int], widths: list[list[int]], cost: CostModel, budget: float
) -> list[int] | None:
    """One or two single-width moves, of one group or of two, after which the cost is nearest."""
    here = _counts(position, widths)
    single = [(g, step) for g in range(len(position)) for step in (-1, 1)
              if _moved(position, widths, g, step)]  # fmt: skip
    if not single:
        return None
    after = [_moved(position, widths, g, step) for g, step in single]
    again = [_moved(position, widths, g, 2 * step) for g, step in single]
    moves = torch.stack([_counts(p, widths) - here for p in after if p])
    once, pairs = (abs(f - budget) for f in cost.after_moves(here, moves))
    groups = torch.tensor([g for g, _ in single])
    pairs[groups[:, None] == groups] = math.inf
    for i, further in enumerate(again):
        if further is not None:
            pairs[i, i] = abs(_fraction(further, widths, cost) - budget)
    if float(once.min()) <= float(pairs.min()):
        return after[int(once.argmin())]
    i, j = divmod(int(pairs.argmin()), len(single))
    return again[i] if i == j else _moved(after[i] or [], widths, *single[j])


def _moved(position: list[int], widths: list[list[int]], g: int, step: int) -> list[int] | None:
    new = position[g] + step
    if not 0 <= new < len(widths[g]):
        return None
    return [*position[:g], new, *position[g + 1 :]]


def _fraction(position: list[int], widths: list[list[int]], cost: CostModel) -> float:
    return float(cost.fraction(_counts(position, widths)))


def _fractions(positions: list[list[int]], widths: list[list[int]], cost: CostModel) -> list[float]:
    if not positions:
        return []
    return cost.fraction(torch.stack([_counts(p, widths) for p in positions])).tolist()


def _counts(position: list[int], widths: list[list[int]]) -> Tensor:
    return _tensor([n[p] for n, p in zip(widths, position, strict=True)])


def _nearest(widths: list[int], count: int) -> int:
    return min(range(len(widths)), key=lambda i: abs(widths[i] - count))


def _tensor(counts: Sequence[int]) -> Tensor:
    return torch.tensor(counts, dtype=torch.float64)
