"""The unit that a recipe's budget is counted in, and how much of it that allows."""

from collections.abc import Callable

from lvc.runtimes import Setting, check_setting
from prune.groups.channels import Channels
from prune.measure.layer_times import LayerTimes, layer_times
from prune.recipe.schema import Budget, MeasureSection, TimeBudget
from prune.sparsify.cost import CostModel
from prune.sparsify.time_cost import TimeCost
from vcodecs import UserError, VideoCodec

Times = Callable[[Setting], LayerTimes]


def cost_of(
    budget: Budget,
    codec: VideoCodec,
    channels: Channels,
    measure: MeasureSection,
    times: Times = layer_times,
) -> CostModel:
    """The cost that a budget limits: MACs, or milliseconds by `times`.

    UserError where the budget's runtime is not installed or lacks its precision here.
    """
    if not isinstance(budget, TimeBudget):
        return CostModel(codec, channels, measure.height, measure.width)
    check_setting(budget.runtime, budget.precision)
    setting = Setting(budget.runtime, budget.precision, measure.cores())
    size = measure.latency_height, measure.latency_width
    return TimeCost(codec, channels, *size, times(setting))


def allowed_share(budget: Budget, cost: CostModel) -> float:
    """The part of the dense decoder's cost that a budget allows, 0 to 1."""
    if not isinstance(budget, TimeBudget):
        return budget
    if budget.latency is not None:
        return budget.latency
    assert budget.latency_ms is not None  # its section has seen to it
    dense = float(cost.total(cost.sizes))
    if budget.latency_ms >= dense:
        raise UserError(
            f"prune.budget latency_ms {budget.latency_ms:g}: the dense decoder takes "
            f"{dense:.4g} ms already; ask for less"
        )
    return budget.latency_ms / dense


def target_at(budget: float, ramp: float, progress: float) -> float:
    """Part of the cost allowed: from 1 to `budget` over the first `ramp` of the steps."""
    part = min(1.0, progress / ramp)
    return 1 - (1 - budget) * (1 - (1 - part) ** 3)
