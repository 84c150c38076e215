"""The training loop: phases of steps over clips, resumable to the bit.

Every step draws its randomness from a seed made of (recipe seed, phase, step), and the data of
step n depend on n alone. The state on disk therefore needs no generator states, and a run that
was killed goes on exactly as it would have. In a time box (`minutes`) the clock decides how many
steps there are, so two runs are alike but not equal.
"""

import math
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from lvc.files import replacing
from prune.data import TrainingClips, batches
from prune.data.training import as_pixels
from prune.progress import Progress, warn
from prune.training.average import AveragedWeights
from prune.training.captured import CapturedPass, Gradients, Pass
from prune.training.companion import Companion, Validator
from prune.training.curves import Curve, Pace, Position
from prune.training.loss import Outcome, rate_distortion
from prune.training.phases import (
    Phase,
    TimeBox,
    boxed_rate_factor,
    learning_rate_factor,
    set_learning_rate,
)
from prune.training.precision import resolved
from prune.training.settings import STATE, TrainerSettings, device_of
from vcodecs import UserError, VideoCodec, checkpoints
from vcodecs.parts import module_of

LOG_EVERY = 10
SKIPS_IN_A_ROW = 3
"""So many steps without a finite loss or gradient, one after the other, end the run."""
BEST = "best.safetensors"
ENDLESS = 2**40
"""Samples of a phase in a time box."""


class Trainer:
    """Trains `codec` through `phases`; its state lives in `folder`/state.pt.

    `sources` are (source, weight) pairs of training clips. Call `run()` once; when the state of
    an earlier, unfinished run is there, it goes on from it. With a `validator` the weights of the
    best score are kept in `folder`/best.safetensors, and are what the training leaves.
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
        validator: Validator | None = None,
    ) -> None:
        # Convolutions of few channels run up to twice as fast this way on CPUs.
        self.codec = codec.to(memory_format=torch.channels_last)
        self.phases = list(phases)
        self.sources = list(sources)
        self.settings = settings
        self.folder = Path(folder)
        self.state_path = self.folder / STATE
        self.companions = list(companions)
        self.title = title
        self.validator = validator
        self.curves: list[Curve] = []
        self.scores: list[dict[str, Any]] = []
        self.total_steps = sum(phase.steps for phase in self.phases)
        self.skipped = self.skipped_in_a_row = 0

    def run(self) -> list[Curve]:
        """Train what is left to train; returns the curves of all phases."""
        self.accelerator = make_accelerator(self.settings)
        torch.set_flush_denormal(True)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            self._run()
        finally:
            torch.set_flush_denormal(False)
        self.codec.eval().requires_grad_(True)
        return self.curves

    def _run(self) -> None:
        self.average = None
        self.codec.to(self.accelerator.device)
        if self.settings.average is not None:
            self.average = AveragedWeights(self.codec, self.settings.average)
        saved = self._load()
        start = Position()
        if saved:
            start = self._position(saved)
        box = TimeBox(self.settings.minutes * 60) if self.settings.minutes is not None else None
        done = sum(phase.steps for phase in self.phases[: start.phase]) + start.step
        self.codec.train()
        with Progress(self.title, self.total_steps, min(done, self.total_steps)) as progress:
            for index in range(start.phase, len(self.phases)):
                here = start if index == start.phase else Position(index)
                optimizer_state = saved["optimizer"] if saved and here is start else None
                if box:
                    box.begin(self.phases[index:], here.part)
                self._run_phase(here, optimizer_state, progress, box)
        if self.average:
            self.average.copy_to_codec()
        self._take_the_best()

    def _position(self, saved: dict[str, Any]) -> Position:
        """How far the saved training is; outside a time box the steps say it, of which the recipe
        may now have another number."""
        at = Position(saved["phase"], saved["step"], saved["part"])
        if at.step and self.settings.minutes is None:
            at.part = min(1.0, at.step / self.phases[at.phase].steps)
        return at

    # ------------------------------------------------------------------ one phase

    def _run_phase(
        self, at: Position, optimizer_state: dict | None, progress: Progress, box: TimeBox | None
    ) -> None:
        phase = self.phases[at.phase]
        if at.step == 0:
            self.curves.append(Curve(phase.name))
        select_modules(self.codec, phase.stage.modules)
        optimizer = self._optimizer(phase)
        if optimizer_state:
            peaks = [group["peak"] for group in optimizer.param_groups]
            optimizer.load_state_dict(optimizer_state)
            # Learning rates are the recipe's of now.
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["peak"] = peak
        model = self._distributed()
        data = self._batches(phase, at.step, endless=box is not None)
        steps_before = sum(earlier.steps for earlier in self.phases[: at.phase])
        last_saved, first, pace = time.monotonic(), at.step, Pace()
        work: Pass | None = None
        while at.part < 1:
            asked = time.monotonic()
            clip = next(data)  # before seeding: the first one of a process draws numbers itself
            pace.waiting += time.monotonic() - asked
            torch.manual_seed(self._seed_of(phase, at.step))
            if work is None:
                work = self._captured(self._pass(model, optimizer, phase), clip, phase)
            factor = (
                boxed_rate_factor(phase, at.part, at.step - first)
                if box
                else learning_rate_factor(phase, at.step)
            )
            set_learning_rate(optimizer, factor)
            all_done = (steps_before + at.part * phase.steps) / self.total_steps
            figures = self._step(work, optimizer, clip, phase, at.step, all_done)
            step, at.step = at.step, at.step + 1
            at.part = box.part() if box else at.step / phase.steps
            pace.steps += 1
            if step % LOG_EVERY == 0 or at.part >= 1:
                logged = {key: float(value) for key, value in figures.items()}
                self.curves[-1].add(step, logged)
                shown = logged | pace.figures() | {"skipped": self.skipped}
                progress.show(phase.name, steps_before + round(at.part * phase.steps), shown)
            if self._is_due(at, phase):
                self._validate(phase, step)
            if time.monotonic() - last_saved > self.settings.checkpoint_seconds and at.part < 1:
                self._save(at, optimizer)
                last_saved = time.monotonic()
        self._save(Position(at.phase + 1), None)
        if model is not self.codec:
            self.codec = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            # Prepared once, it would not be prepared again in the next phase.
            self.codec.__dict__.pop("_is_accelerate_prepared", None)

    def _distributed(self) -> nn.Module:
        """The codec as several processes train it together; alone it stays as it is."""
        if self.accelerator.num_processes == 1:
            return self.codec
        return self.accelerator.prepare(self.codec)

    def _step(
        self, work: Pass, optimizer: torch.optim.Optimizer, clip: Tensor, phase: Phase, step: int,
        done: float,
    ) -> dict[str, Tensor | float]:  # fmt: skip
        for companion in self.companions:
            companion.begin_step(phase.stage, done)
        rates, lagrangians = self.settings.tradeoff.draw(len(clip), clip.device)
        found = work(clip, rates, lagrangians)
        # A step whose gradient is not finite would destroy the weights for good.
        finite = bool(torch.isfinite(found.loss) & torch.isfinite(found.norm))
        if finite:
            optimizer.step()
            if self.average:
                self.average.update()
        self._count(finite, phase, step)
        figures: dict[str, Tensor | float] = {"loss": found.loss.detach(), "bpp": found.bpp}
        figures["psnr"] = -10 * found.mse.log10()
        for companion in self.companions:
            companion.end_step()
            figures |= companion.figures()
        return figures

    def _pass(self, model: nn.Module, optimizer: torch.optim.Optimizer, phase: Phase) -> Pass:
        """Forward and backward of one step of `phase`."""
        trained = [p for p in self.codec.parameters() if p.requires_grad]
        settings = self.settings

        def work(clip: Tensor, rates: Tensor | None, lagrangians: Tensor) -> Gradients:
            with self.accelerator.autocast():
                if settings.intra:
                    clip[:, 0] = settings.intra.pictures(clip[:, 0], rates)
                outcome: Outcome = rate_distortion(
                    model, clip, phase.stage, lagrangians, settings.intra_noise, rates
                )
            loss = outcome.loss + sum(companion.loss() for companion in self.companions)
            optimizer.zero_grad(set_to_none=True)
            # Going backward from a loss that is no number has crashed the process on CPUs.
            if loss.device.type == "cpu" and not torch.isfinite(loss):
                return Gradients(loss, outcome.bpp, outcome.mse, torch.full_like(loss, math.nan))
            self.accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            return Gradients(loss.detach(), outcome.bpp, outcome.mse, norm.detach())

        return work

    def _captured(self, work: Pass, clip: Tensor, phase: Phase) -> Pass:
        """`work` as a CUDA graph where that is possible, else as it is."""
        alone = self.accelerator.num_processes == 1 and not self.companions
        if clip.device.type != "cuda" or not alone or not self.settings.capture:
            return work
        rates, lagrangians = self.settings.tradeoff.draw(len(clip), clip.device)
        try:
            return CapturedPass(work, clip, rates, lagrangians)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warn(f"{self.title}: {phase.name} runs kernel by kernel, since no graph: {reason}")
            return work

    def _count(self, finite: bool, phase: Phase, step: int) -> None:
        """Count steps that were left out; too many in a row are a UserError."""
        if finite:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
            first = step - self.skipped_in_a_row + 1
            raise UserError(
                f"{self.title}: the loss is not finite at step {first} of stage {phase.name}, nor "
                f"in the steps behind it; lower its learning rate ({phase.learning_rate:g})"
            )

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        trained = [p for p in self.codec.parameters() if p.requires_grad]
        groups = [{"params": trained, "lr": phase.learning_rate}]
        groups += [group for c in self.companions for group in c.parameter_groups()]
        # One kernel for all parameters instead of several for each.
        fused = self.accelerator.device.type == "cuda"
        optimizer = torch.optim.Adam(groups, lr=phase.learning_rate, fused=fused)
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
        return optimizer

    def _batches(self, phase: Phase, start: int, endless: bool = False) -> Iterator[Tensor]:
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        steps = ENDLESS if endless else phase.steps
        dataset = TrainingClips(
            self.sources,
            frames=phase.stage.frames + 1,
            crop=phase.crop,
            seed=zlib.crc32(f"{self.settings.seed} {self.title} {phase.name}".encode()),
            length=steps * phase.batch * ranks,
        )
        stream = batches(dataset, phase.batch, start * ranks, self.settings.workers, as_bytes=True)
        for i, clip in enumerate(stream):
            if i % ranks == rank:
                yield as_pixels(clip.to(self.accelerator.device, non_blocking=True))

    def _seed_of(self, phase: Phase, step: int) -> int:
        rank = self.accelerator.process_index
        return zlib.crc32(f"{self.settings.seed} {phase.name} {step} {rank}".encode())

    # ------------------------------------------------------------------ validation

    def _is_due(self, at: Position, phase: Phase) -> bool:
        if not (self.validator and self.settings.validate_every):
            return False
        # Earlier stages make no picture that could be scored.
        whole = phase.stage.picture == "frame"
        return whole and (at.part >= 1 or at.step % self.settings.validate_every == 0)

    def _validate(self, phase: Phase, step: int) -> None:
        """Score the weights that would be left now, and keep them where they are the best."""
        with self.average.applied() if self.average else nullcontext():
            self._score(phase, step)
        self.codec.train()

    def _score(self, phase: Phase, step: int) -> None:
        assert self.validator is not None
        with torch.no_grad(), self.accelerator.autocast():
            found = self.validator(self.codec.eval())
        best = min((score["score"] for score in self.scores), default=math.inf)
        self.scores.append({"stage": phase.name, "step": step, **found})
        if found["score"] < best and self.accelerator.is_main_process:
            checkpoints.save(self.codec, self.folder / BEST)

    def _take_the_best(self) -> None:
        """Go back to the best weights where the last ones are worse."""
        if not self.scores or not (self.folder / BEST).exists():
            return
        best = min(self.scores, key=lambda score: score["score"])
        if best is self.scores[-1]:
            return
        warn(
            f"{self.title}: the weights after step {best['step']} of {best['stage']} score best "
            f"({best['score']:.4f}, the last ones {self.scores[-1]['score']:.4f}) and are kept"
        )
        checkpoints.load_into(self.codec, self.folder / BEST)

    # ------------------------------------------------------------------ state on disk

    def _save(self, at: Position, optimizer: torch.optim.Optimizer | None) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            **vars(at),
            "codec": self.codec.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": optimizer.state_dict() if optimizer else None,
            "companions": [companion.state_dict() for companion in self.companions],
            "curves": [vars(curve) for curve in self.curves],
            "scores": self.scores,
            "skipped": self.skipped,
        }
        with replacing(self.state_path) as temporary:
            torch.save(state, temporary)

    def _load(self) -> dict[str, Any] | None:
        if not self.state_path.exists():
            return None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            self.codec.load_state_dict(state["codec"])
            if self.average:
                self.average.load_state_dict(state["average"] or _unaveraged(self.codec))
            for companion, saved in zip(self.companions, state["companions"], strict=True):
                companion.load_state_dict(saved)
            self.curves = [Curve(**curve) for curve in state["curves"]]
            self.scores, self.skipped = state["scores"], state["skipped"]
        except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError, ValueError) as e:
            raise UserError(
                f"{self.state_path}: damaged, or of another training; remove it to train from the "
                "start"
            ) from e
        return state


def _unaveraged(codec: nn.Module) -> dict[str, Any]:
    """A state for an average that begins with the present weights."""
    return AveragedWeights(codec, 0.0).state_dict()


def make_accelerator(settings: TrainerSettings) -> Accelerator:
    """Accelerate's view of the devices; modules that a stage leaves out get no gradient."""
    # It keeps the settings of the first training in a process and refuses those of the second.
    AcceleratorState._reset_state(reset_partial_state=True)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    cpu = settings.device == "cpu"
    device = torch.device(device_of(settings.device))
    return Accelerator(
        cpu=cpu,
        mixed_precision=resolved(settings.precision, device),
        kwargs_handlers=[unused],
    )


def select_modules(codec: nn.Module, names: Sequence[str]) -> None:
    """Let only the parameters of these modules be trained, and parameters so named."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(module_of(name, names) is not None)
