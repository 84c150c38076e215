"""Scores of a training on held-back clips, and the weights that scored best."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from prune.progress import warn
from prune.training.average import AveragedWeights
from prune.training.companion import Validator
from prune.training.curves import Position
from prune.training.phases import Phase
from prune.training.processes import Processes
from vcodecs import VideoCodec, checkpoints

BEST = "best.safetensors"


class BestWeights:
    """Scores a codec every `every` steps, and keeps the best weights in `folder`."""

    def __init__(self, validator: Validator | None, every: int | None, folder: Path) -> None:
        self.validator, self.every, self.path = validator, every, folder / BEST
        self.scores: list[dict[str, Any]] = []

    def is_due(self, at: Position, phase: Phase) -> bool:
        if not (self.validator and self.every):
            return False
        # Earlier stages make no picture that could be scored.
        whole = phase.stage.picture == "frame"
        return whole and (at.part >= 1 or at.step % self.every == 0)

    def score(
        self,
        codec: VideoCodec,
        average: AveragedWeights | None,
        accelerator: Accelerator,
        phase: Phase,
        step: int,
    ) -> None:
        """Score the weights that would be left now, and keep them where they are the best."""
        assert self.validator is not None
        processes = Processes(accelerator.device)
        with average.applied() if average else nullcontext():
            with torch.no_grad(), accelerator.autocast():
                # Devices differ in the last digits, and all have to keep the same weights.
                found = processes.agreed(self.validator(codec.eval()))
            best = min((score["score"] for score in self.scores), default=math.inf)
            self.scores.append({"stage": phase.name, "step": step, **found})
            if found["score"] < best and processes.first:
                checkpoints.save(codec, self.path)
        codec.train()

    def restore(self, codec: VideoCodec, title: str) -> None:
        """Go back to the best weights where the last ones are worse."""
        if not self.scores or not self.path.exists():
            return
        best = min(self.scores, key=lambda score: score["score"])
        if best is self.scores[-1]:
            return
        warn(
            f"{title}: the weights after step {best['step']} of {best['stage']} score best "
            f"({best['score']:.4f}, the last ones {self.scores[-1]['score']:.4f}) and are kept"
        )
        checkpoints.load_into(codec, self.path)
