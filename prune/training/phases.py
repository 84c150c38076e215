"""Phases of a training, how the learning rate goes through them, and time boxes."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vcodecs import Stage


@dataclass(frozen=True)
class Phase:
    """A stage of the codec with its numbers. `learning_rate` is the peak of the schedule."""

    name: str
    stage: Stage
    steps: int
    learning_rate: float
    batch: int
    crop: int
    final_rate: float = 0.05
    """Learning rate at the end, as a fraction of the peak (cosine after a short warm-up)."""

    @property
    def cost(self) -> int:
        """Work of all its steps, in frames' pixels, by which a time box is shared out."""
        return self.steps * self.stage.frames * self.batch * self.crop**2


def warm_up_steps(phase: Phase) -> int:
    """2 % of the phase, at most 100."""
    return min(100, max(1, phase.steps // 50))


def learning_rate_factor(phase: Phase, step: int) -> float:
    """Linear warm-up, then half a cosine down to `final_rate`."""
    warm_up = warm_up_steps(phase)
    if step < warm_up:
        return (step + 1) / warm_up
    return _cosine(phase, (step - warm_up) / max(1, phase.steps - warm_up))


def boxed_rate_factor(phase: Phase, part: float, since: int) -> float:
    """The same in a time box: `part` of the phase is over, `since` steps after it was begun."""
    warm_up = min(1.0, (since + 1) / warm_up_steps(phase))
    return warm_up * _cosine(phase, min(1.0, part))


def _cosine(phase: Phase, part: float) -> float:
    return phase.final_rate + (1 - phase.final_rate) * (1 + math.cos(math.pi * part)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class TimeBox:
    """Shares `seconds` out over phases in proportion to their cost.

    What a phase does not use, or takes too long, is shared by those behind it.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.end = clock() + seconds

    def begin(self, phases: Sequence[Phase], done: float = 0.0) -> None:
        """Begin the first of `phases`, those that are left; `done` (0 to 1) of it is over."""
        left = [phases[0].cost * (1 - done), *(phase.cost for phase in phases[1:])]
        self.first, self.started = done, self.clock()
        self.seconds = max(1e-3, (self.end - self.started) * left[0] / max(1e-9, sum(left)))

    def part(self) -> float:
        """The part of the phase that is over, 0 to 1."""
        passed = (self.clock() - self.started) / self.seconds
        return min(1.0, self.first + (1 - self.first) * passed)
