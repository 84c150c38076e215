"""The training loop: phases of steps over clips, resumable to the bit.

Every step draws its randomness from a seed made of (recipe seed, phase, step), and the data of
step n depend on n alone. The state on disk therefore needs no generator states, and a run that
was killed goes on exactly as it would have.
"""

import math
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from lvc.files import replacing
from prune.data import TrainingClips, batches
from prune.objective import Outcome, rate_distortion
from prune.progress import Progress
from prune.rates import Tradeoff
from prune.steps import STATE
from vcodecs import Stage, UserError, VideoCodec
from vcodecs.intra import IntraCodec
from vcodecs.parts import module_of

LOG_EVERY = 10


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


@dataclass(frozen=True)
class TrainerSettings:
    """What all phases share."""

    tradeoff: Tradeoff
    seed: int = 0
    clip_norm: float = 1.0
    intra: IntraCodec | None = None
    """Codes the first frame of every clip; without one it gets noise."""
    intra_noise: float = 0.0
    workers: int = 1
    precision: str = "no"
    device: str = "auto"
    checkpoint_seconds: float = 30.0


class Companion(Protocol):
    """Something that trains along: sparsification, distillation."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of its own parameters (may be empty)."""

    def begin_step(self, stage: Stage, progress: float) -> None:
        """Called before the forward pass; `progress` is the part of all steps done, 0 to 1."""

    def loss(self) -> Tensor | float:
        """Its term of the loss, after the forward pass."""

    def end_step(self) -> None:
        """Called after the optimizer's step."""

    def figures(self) -> dict[str, float]:
        """What the curves and the progress bar show of it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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


class Trainer:
    """Trains `codec` through `phases`; its state lives in `folder`/state.pt.

    `sources` are (source, weight) pairs of training clips. Call `run()` once; when the state of
    an earlier, unfinished run is there, it goes on from it.
    """

    def __init__(
        self,
        codec: VideoCodec,
        phases: Sequence[Phase],
        sources: Sequence[tuple[Any, float]],
        settings: TrainerSettings,
        folder: Path,
        companions: Sequence[Companion] = (),
        title: str = "training",
    ) -> None:
        # Convolutions of few channels run up to twice as fast this way on CPUs.
        self.codec = codec.to(memory_format=torch.channels_last)
        self.phases = list(phases)
        self.sources = list(sources)
        self.settings = settings
        self.state_path = Path(folder) / STATE
        self.companions = list(companions)
        self.title = title
        self.curves: list[Curve] = []
        self.total_steps = sum(phase.steps for phase in self.phases)

    def run(self) -> list[Curve]:
        """Train what is left to train; returns the curves of all phases."""
        self.accelerator = make_accelerator(self.settings)
        torch.set_flush_denormal(True)
        try:
            self._run()
        finally:
            torch.set_flush_denormal(False)
        self.codec.eval().requires_grad_(True)
        return self.curves

    def _run(self) -> None:
        saved = self._load()
        first_phase, first_step = (saved["phase"], saved["step"]) if saved else (0, 0)
        done = sum(phase.steps for phase in self.phases[:first_phase]) + first_step
        self.codec.train()
        with Progress(self.title, self.total_steps, done) as progress:
            for index in range(first_phase, len(self.phases)):
                state = saved["optimizer"] if saved and index == first_phase else None
                start = first_step if index == first_phase else 0
                self._run_phase(index, start, state, progress)

    # ------------------------------------------------------------------ one phase

    def _run_phase(
        self, index: int, start: int, optimizer_state: dict | None, progress: Progress
    ) -> None:
        phase = self.phases[index]
        if start == 0:
            self.curves.append(Curve(phase.name))
        select_modules(self.codec, phase.stage.modules)
        optimizer = self._optimizer(phase)
        if optimizer_state:
            optimizer.load_state_dict(optimizer_state)
        model = self.accelerator.prepare(self.codec)
        data = self._batches(phase, start)
        last_saved = time.monotonic()
        steps_before = sum(earlier.steps for earlier in self.phases[:index])
        for step in range(start, phase.steps):
            clip = next(data)  # before seeding: the first one of a process draws numbers itself
            torch.manual_seed(self._seed_of(phase, step))
            set_learning_rate(optimizer, learning_rate_factor(phase, step))
            figures = self._step(
                model, optimizer, clip, phase, (steps_before + step) / self.total_steps
            )
            if step % LOG_EVERY == 0 or step == phase.steps - 1:
                logged = {key: float(value) for key, value in figures.items()}
                self._check(logged, phase, step)
                self.curves[-1].add(step, logged)
                progress.show(phase.name, steps_before + step + 1, logged)
            if time.monotonic() - last_saved > self.settings.checkpoint_seconds:
                self._save(index, step + 1, optimizer)
                last_saved = time.monotonic()
        self._save(index + 1, 0, None)
        # Also the hooks that preparing added are gone before the next phase prepares anew.
        self.codec = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)

    def _step(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        clip: Tensor,
        phase: Phase,
        done: float,
    ) -> dict[str, Tensor | float]:
        clip = clip.to(self.accelerator.device)
        for companion in self.companions:
            companion.begin_step(phase.stage, done)
        rates, lagrangians = self.settings.tradeoff.draw(len(clip), clip.device)
        if self.settings.intra:
            with self.accelerator.autocast():
                clip[:, 0] = self.settings.intra.pictures(clip[:, 0], rates)
        outcome: Outcome = rate_distortion(
            model, clip, phase.stage, lagrangians, self.settings.intra_noise, rates
        )
        loss = outcome.loss + sum(companion.loss() for companion in self.companions)
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        trained = [p for p in self.codec.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, self.settings.clip_norm)
        # A step whose gradient is not finite would destroy the weights for good.
        if torch.isfinite(norm):
            optimizer.step()
        figures = {"loss": loss.detach(), "bpp": outcome.bpp, "psnr": -10 * outcome.mse.log10()}
        for companion in self.companions:
            companion.end_step()
            figures |= companion.figures()
        return figures

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        trained = [p for p in self.codec.parameters() if p.requires_grad]
        groups = [{"params": trained, "lr": phase.learning_rate}]
        groups += [group for c in self.companions for group in c.parameter_groups()]
        optimizer = torch.optim.Adam(groups, lr=phase.learning_rate)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer

    def _batches(self, phase: Phase, start: int) -> Iterator[Tensor]:
        dataset = TrainingClips(
            self.sources,
            frames=phase.stage.frames + 1,
            crop=phase.crop,
            seed=zlib.crc32(f"{self.settings.seed} {self.title} {phase.name}".encode()),
            length=phase.steps * phase.batch * self.accelerator.num_processes,
        )
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        stream = batches(dataset, phase.batch, start * ranks, self.settings.workers)
        for i, clip in enumerate(stream):
            if i % ranks == rank:
                yield clip

    def _seed_of(self, phase: Phase, step: int) -> int:
        rank = self.accelerator.process_index
        return zlib.crc32(f"{self.settings.seed} {phase.name} {step} {rank}".encode())

    def _check(self, figures: dict[str, float], phase: Phase, step: int) -> None:
        if not math.isfinite(figures["loss"]):
            raise UserError(
                f"{self.title}: the loss is not finite at step {step} of stage {phase.name}; "
                f"lower its learning rate ({phase.learning_rate:g})"
            )

    # ------------------------------------------------------------------ state on disk

    def _save(self, phase: int, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "phase": phase,
            "step": step,
            "codec": self.codec.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer else None,
            "companions": [companion.state_dict() for companion in self.companions],
            "curves": [vars(curve) for curve in self.curves],
        }
        with replacing(self.state_path) as temporary:
            torch.save(state, temporary)

    def _load(self) -> dict[str, Any] | None:
        if not self.state_path.exists():
            return None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            self.codec.load_state_dict(state["codec"])
            for companion, saved in zip(self.companions, state["companions"], strict=True):
                companion.load_state_dict(saved)
            self.curves = [Curve(**curve) for curve in state["curves"]]
        except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, ValueError) as e:
            raise UserError(
                f"{self.state_path}: damaged, or of another training; remove it to train from the "
                "start"
            ) from e
        return state


def make_accelerator(settings: TrainerSettings) -> Accelerator:
    """Accelerate's view of the devices; modules that a stage leaves out get no gradient."""
    # It keeps the settings of the first training in a process and refuses those of the second.
    AcceleratorState._reset_state(reset_partial_state=True)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        cpu=settings.device == "cpu",
        mixed_precision=settings.precision,
        kwargs_handlers=[unused],
    )


def select_modules(codec: nn.Module, names: Sequence[str]) -> None:
    """Let only the parameters of these modules be trained, and parameters so named."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(module_of(name, names) is not None)


def learning_rate_factor(phase: Phase, step: int) -> float:
    """Linear warm-up over 2 % of the phase (at most 100 steps), then half a cosine."""
    warm_up = min(100, max(1, phase.steps // 50))
    if step < warm_up:
        return (step + 1) / warm_up
    part = (step - warm_up) / max(1, phase.steps - warm_up)
    return phase.final_rate + (1 - phase.final_rate) * (1 + math.cos(math.pi * part)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
