"""One step of a training: forward and backward over a batch, then the optimizer.

A batch may go through the codec in parts, one after the other, and parts may be those of several
processes; both change results by rounding alone.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prune.progress import warn
from prune.training.captured import CapturedPass, Gradients, Pass
from prune.training.companion import Companion
from prune.training.loss import rate_distortion
from prune.training.phases import Phase
from prune.training.processes import Processes
from prune.training.settings import TrainerSettings
from vcodecs import VideoCodec
from vcodecs.noise import BatchPart, part_of_batch


class TrainingStep:
    """Steps of one phase; what trains along is told of each part of a batch by `loss()`."""

    def __init__(
        self,
        codec: VideoCodec,
        phase: Phase,
        settings: TrainerSettings,
        companions: Sequence[Companion],
        accelerator: Accelerator,
        scaler: torch.amp.GradScaler,
        title: str,
    ) -> None:
        self.codec, self.phase, self.settings = codec, phase, settings
        self.companions, self.accelerator, self.title = list(companions), accelerator, title
        self.scaler = scaler
        self.processes = Processes(accelerator.device)
        self.trained = [p for p in codec.parameters() if p.requires_grad]
        self.optimizer = self._optimizer()
        self.model = _model(codec, settings, bool(self.companions))
        self.progress = 0.0
        self._pass: Pass | None = None

    def __call__(self, clips: Tensor, progress: float) -> tuple[Gradients, bool]:
        """Train on this process's clips (N, T, 3, H, W) of the batch.

        `progress`: the part of all steps done, 0 to 1. Returns the batch's loss, bits and error,
        the same in every process, and whether the step was taken: one whose loss or gradient is
        not finite would destroy the weights for good.
        """
        if self._pass is None:
            self._pass = self._captured(clips)
        self.progress = progress
        own = self.processes.share(self.phase.batch)
        rates, lagrangians = self.settings.tradeoff.draw(own.whole, clips.device)
        mine = slice(own.first, own.first + len(clips))
        found = self._pass(clips, None if rates is None else rates[mine], lagrangians[mine])
        finite = bool(torch.isfinite(found.loss) & torch.isfinite(found.norm))
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return found, finite

    @property
    def is_calibrating(self) -> bool:
        """Whether float16's scale may still be what makes gradients overflow."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    # ------------------------------------------------------------------ forward and backward

    def _backward(self, clips: Tensor, rates: Tensor | None, lagrangians: Tensor) -> Gradients:
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._parts(len(clips))
        numbers = _random_state(clips.device) if len(parts) > 1 else None
        sums: list[Tensor] = []
        for mine, part in parts:
            if numbers is not None:
                _set_random_state(clips.device, numbers)
            with part_of_batch(part):
                found = self._forward(
                    clips[mine], None if rates is None else rates[mine], lagrangians[mine]
                )
            terms = torch.stack([term / len(parts) for term in found])
            # The first process's curves are those of the whole batch.
            shown = self.processes.mean(terms.detach())
            # Going backward from a loss that is no number has crashed the process on CPUs.
            if terms.device.type == "cpu" and not torch.isfinite(shown[0]):
                return Gradients(shown[0], shown[1], shown[2], torch.full_like(shown[0], math.nan))
            self.scaler.scale(terms[0]).backward()
            sums.append(shown)
            del found, terms
        loss, bpp, mse = torch.stack(sums).sum(0)
        self.processes.mean_gradients(p for g in self.optimizer.param_groups for p in g["params"])
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm)
        return Gradients(loss, bpp, mse, norm.detach())

    def _forward(
        self, clips: Tensor, rates: Tensor | None, lagrangians: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        settings = self.settings
        for companion in self.companions:
            companion.begin_step(self.phase.stage, self.progress)
        with self.accelerator.autocast():
            if settings.intra:
                clips[:, 0] = settings.intra.pictures(clips[:, 0], rates)
            outcome = rate_distortion(
                self.model, clips, self.phase.stage, lagrangians, settings.intra_noise, rates
            )
        loss = outcome.loss + sum(companion.loss() for companion in self.companions)
        return loss, outcome.bpp, outcome.mse

    def _parts(self, count: int) -> list[tuple[slice, BatchPart | None]]:
        """Slices of this process's clips, with where they are in the whole batch."""
        own = self.processes.share(self.phase.batch)
        number = math.gcd(self.settings.accumulate, count)
        if number == 1 and self.processes.alone:
            return [(slice(None), None)]
        size = count // number
        starts = range(0, count, size)
        return [(slice(i, i + size), BatchPart(own.first + i, own.whole)) for i in starts]

    def _captured(self, clips: Tensor) -> Pass:
        """Forward and backward as a CUDA graph where that is possible, else as they are."""
        simple = not self.companions and self.settings.accumulate == 1
        simple = simple and not (self.settings.compile or self.settings.recompute)
        simple = simple and self.processes.alone and not self.scaler.is_enabled()
        if clips.device.type != "cuda" or not simple or not self.settings.capture:
            return self._backward
        rates, lagrangians = self.settings.tradeoff.draw(len(clips), clips.device)
        try:
            return CapturedPass(self._backward, clips, rates, lagrangians)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warn(f"{self.title}: {self.phase.name} runs kernel by kernel, since no graph: {reason}")
            return self._backward

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = [{"params": self.trained, "lr": self.phase.learning_rate}]
        groups += [group for c in self.companions for group in c.parameter_groups()]
        # One kernel for all parameters instead of several for each.
        fused = self.accelerator.device.type == "cuda"
        optimizer = torch.optim.Adam(groups, lr=self.phase.learning_rate, fused=fused)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer


def _model(codec: VideoCodec, settings: TrainerSettings, accompanied: bool) -> Any:
    """The coder of a frame: the codec, compiled or with its activations computed twice."""
    if settings.recompute:
        return partial(checkpoint, codec, use_reentrant=False)
    # Hooks and masks of what trains along would be compiled anew in every step.
    return torch.compile(codec) if settings.compile and not accompanied else codec


def resume(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Take in a saved state; learning rates are the recipe's of now."""
    peaks = [group["peak"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["peak"] = peak


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
