"""A training's notes of itself: curves, progress, where its time goes."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
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
    """Progress of a training: `step` steps, which are `part` (0 to 1), of phase number `phase`."""

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


def log(folder: Path, stage: str, step: int, figures: dict[str, float]) -> None:
    """Append a line of JSON to `folder`/log.jsonl: seconds since 1970, stage, step and figures.

    A training that goes on after a kill writes the steps since its state a second time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    line = {"time": round(time.time(), 3), "stage": stage, "step": step, **figures}
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
