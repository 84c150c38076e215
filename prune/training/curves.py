"""What a training notes of itself: curves, how far it is, where its time goes."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Curve:
    """Logged figures of one phase, by step."""

    stage: str
    step: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, figures: dict[str, float]) -> None:
        self.step.append(step)
        for key, value in figures.items():
            self.values.setdefault(key, []).append(value)

    def as_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, "step": self.step, **self.values}


@dataclass
class Position:
    """How far a training is: `step` steps, which are `part` (0 to 1), of phase number `phase`."""

    phase: int = 0
    step: int = 0
    part: float = 0.0


@dataclass
class Pace:
    """Where the time of the last steps went, in seconds."""

    steps: int = 0
    waiting: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def figures(self) -> dict[str, float]:
        """Steps a second and the share of the time that waited for data; starts anew."""
        passed = max(1e-9, time.monotonic() - self.began)
        found = {"speed": self.steps / passed, "waiting": self.waiting / passed}
        self.steps, self.waiting, self.began = 0, 0.0, time.monotonic()
        return found
