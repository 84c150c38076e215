"""The training loop: phases of steps over clips, resumable to the bit, by any number of processes.

Every step draws its randomness from a seed made of (recipe seed, phase, step), and the data of
step n depend on n alone. The state on disk therefore needs no generator states of any process, and
a run that was killed goes on exactly as it would have. In a time box (`minutes`) the clock decides
how many steps there are, so two runs are alike but not equal.

A batch is that of all processes together: they share its clips out, and train as one does.
"""

import signal
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune.data import TrainingClips, batches
from prune.data.training import as_pixels
from prune.interruption import Interrupted, noted_signals
from prune.progress import Progress
from prune.training.average import AveragedWeights
from prune.training.best import BestWeights
from prune.training.companion import Companion, Validator
from prune.training.curves import Curve, Pace, Position, log
from prune.training.devices import arithmetic, make_accelerator, make_scaler
from prune.training.phases import (
    Phase,
    TimeBox,
    boxed_rate_factor,
    learning_rate_factor,
    set_learning_rate,
)
from prune.training.processes import Processes
from prune.training.saved_state import SavedStates
from prune.training.settings import TrainerSettings
from prune.training.step import TrainingStep, resume
from prune.training.tensorboard import PICTURES_EVERY, Board
from vcodecs import UserError, VideoCodec
from vcodecs.parts import module_of

LOG_EVERY = 10
ENDLESS = 2**40
"""Samples of a phase in a time box."""


class Trainer:
    """Trains `codec` through `phases`; its newest states live in `folder`.

    `sources` are (source, weight) pairs of training clips. Call `run()` once; when the state of
    an earlier, unfinished run is there, it goes on from it. With a `validator` the weights of the
    best score are kept in `folder`/best.safetensors, and are what the training leaves. Ctrl-C and
    SIGTERM end it behind the step that it is at, saved, with `Interrupted`.
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
        self.states = SavedStates(self.folder, settings.keep_checkpoints)
        self.best = BestWeights(validator, settings.validate_every, self.folder)
        self.companions = list(companions)
        self.title = title
        self.curves: list[Curve] = []
        self.total_steps = sum(phase.steps for phase in self.phases)
        self.skipped = self.skipped_in_a_row = 0
        self.board: Board | None = None

    def run(self) -> list[Curve]:
        """Train what is left to train; returns the curves of all phases."""
        self.accelerator = make_accelerator(self.settings)
        self.processes = Processes(self.accelerator.device)
        self.scaler = make_scaler(self.accelerator)
        self._check_batches()
        try:
            with arithmetic(self.settings), noted_signals() as self.asked:
                self._run()
        finally:
            if self.board:
                self.board.close()
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
        if self.settings.tensorboard and self.processes.first:
            self.board = Board(self.settings.tensorboard, done)
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
        self.best.restore(self.codec, self.title)

    def _position(self, saved: dict[str, Any]) -> Position:
        """Progress of the saved training; outside a time box the steps say it, of which the recipe
        may now have another number."""
        at = Position(saved["phase"], saved["step"], saved["part"])
        if at.step and self.settings.minutes is None:
            at.part = min(1.0, at.step / self.phases[at.phase].steps)
        return at

    def _check_batches(self) -> None:
        count = self.processes.count
        for phase in self.phases:
            if phase.batch % count:
                raise UserError(
                    f"data.batch {phase.batch}: {count} processes cannot share it out evenly "
                    f"(phase {phase.name}); make it a multiple of {count}"
                )

    # ------------------------------------------------------------------ one phase

    def _run_phase(
        self, at: Position, optimizer_state: dict | None, progress: Progress, box: TimeBox | None
    ) -> None:
        phase = self.phases[at.phase]
        if at.step == 0:
            self.curves.append(Curve(phase.name))
        select_modules(self.codec, phase.stage.modules)
        step = TrainingStep(
            self.codec, phase, self.settings, self.companions, self.accelerator, self.scaler,
            self.title,
        )  # fmt: skip
        if optimizer_state:
            resume(step.optimizer, optimizer_state)
        data = self._batches(phase, at.step, endless=box is not None)
        steps_before = sum(earlier.steps for earlier in self.phases[: at.phase])
        last_saved, first, pace = time.monotonic(), at.step, Pace()
        while at.part < 1:
            asked = time.monotonic()
            clip = next(data)  # before seeding: the first one of a process draws numbers itself
            pace.waiting += time.monotonic() - asked
            torch.manual_seed(self._seed_of(phase, at.step))
            factor = (
                boxed_rate_factor(phase, at.part, at.step - first)
                if box
                else learning_rate_factor(phase, at.step)
            )
            set_learning_rate(step.optimizer, factor)
            all_done = (steps_before + at.part * phase.steps) / self.total_steps
            figures = self._take(step, clip, at.step, all_done)
            number, at.step = at.step, at.step + 1
            at.part = self.processes.agreed(box.part()) if box else at.step / phase.steps
            pace.steps += 1
            if number % LOG_EVERY == 0 or at.part >= 1:
                logged = {key: float(value) for key, value in figures.items()}
                self.curves[-1].add(number, logged)
                shown = logged | pace.figures() | {"skipped": self.skipped}
                if self.processes.first:
                    log(self.folder, phase.name, number, shown)
                if self.board:
                    self.board.show(steps_before + number, shown, self.companions)
                progress.show(phase.name, steps_before + round(at.part * phase.steps), shown)
            if self.board and (number % PICTURES_EVERY == 0 or at.part >= 1):
                tradeoff = self.settings.tradeoff
                self.board.picture(steps_before + number, self.codec, clip, phase, tradeoff)
            if self.best.is_due(at, phase):
                self.best.score(self.codec, self.average, self.accelerator, phase, number)
            if at.part < 1:
                stopped = self.processes.any(bool(self.asked.number))
                if stopped or time.monotonic() - last_saved > self.settings.checkpoint_seconds:
                    self._save(at, step.optimizer)
                    last_saved = time.monotonic()
                if stopped:
                    self._stop(at, phase)
        self._save(Position(at.phase + 1), None)
        if self.processes.any(bool(self.asked.number)):
            self._stop(at, phase)

    def _take(
        self, step: TrainingStep, clip: Tensor, number: int, done: float
    ) -> dict[str, Tensor | float]:
        found, finite = step(clip, done)
        if finite and self.average:
            self.average.update()
        self._count(finite or step.is_calibrating, finite, step.phase, number)
        figures: dict[str, Tensor | float] = {"loss": found.loss.detach(), "bpp": found.bpp}
        figures["psnr"] = -10 * found.mse.log10()
        for companion in self.companions:
            companion.end_step()
            figures |= companion.figures()
        return figures

    def _count(self, harmless: bool, finite: bool, phase: Phase, step: int) -> None:
        """Count steps that were left out; too many in a row are a UserError."""
        self.skipped += not finite
        self.skipped_in_a_row = 0 if harmless else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.settings.skips:
            first = step - self.skipped_in_a_row + 1
            raise UserError(
                f"{self.title}: the loss is not finite at step {first} of stage {phase.name}, nor "
                f"in the {self.skipped_in_a_row - 1} behind it; lower its learning rate "
                f"({phase.learning_rate:g}), or train.clip_norm ({self.settings.clip_norm:g})"
            )

    def _stop(self, at: Position, phase: Phase) -> None:
        where = f"{self.title}: saved behind step {at.step} of {phase.steps} of {phase.name}"
        # The other processes are told by one that was.
        raise Interrupted(self.asked.number or signal.SIGTERM, where)

    def _batches(self, phase: Phase, start: int, endless: bool = False) -> Iterator[Tensor]:
        steps = ENDLESS if endless else phase.steps
        dataset = TrainingClips(
            self.sources,
            frames=phase.stage.frames + 1,
            crop=phase.crop,
            seed=zlib.crc32(f"{self.settings.seed} {self.title} {phase.name}".encode()),
            length=steps * phase.batch,
        )
        part = (self.processes.rank, self.processes.count)
        stream = batches(dataset, phase.batch, start, self.settings.workers, True, part)
        for clip in stream:
            yield as_pixels(clip.to(self.accelerator.device, non_blocking=True))

    def _seed_of(self, phase: Phase, step: int) -> int:
        """The same in all processes: each draws the numbers of the whole batch."""
        return zlib.crc32(f"{self.settings.seed} {phase.name} {step} 0".encode())

    # ------------------------------------------------------------------ state on disk

    def _save(self, at: Position, optimizer: torch.optim.Optimizer | None) -> None:
        if not self.processes.first:
            return
        self.states.save(
            {
                **vars(at),
                "codec": self.codec.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "optimizer": optimizer.state_dict() if optimizer else None,
                "scaler": self.scaler.state_dict(),
                "companions": [companion.state_dict() for companion in self.companions],
                "curves": [vars(curve) for curve in self.curves],
                "scores": self.best.scores,
                "skipped": self.skipped,
                "skipped_in_a_row": self.skipped_in_a_row,
            }
        )

    def _load(self) -> dict[str, Any] | None:
        """Let all go on from what the first process finds."""
        found: dict[str, Any] | None = None
        if self.processes.first:
            found = self.states.load(self._take_in)
        saved = self.processes.agreed(found)
        if saved and not self.processes.first:
            self._take_in(saved)
        return saved

    def _take_in(self, state: dict[str, Any]) -> None:
        self.codec.load_state_dict(state["codec"])
        if self.average:
            self.average.load_state_dict(state["average"] or _unaveraged(self.codec))
        for companion, saved in zip(self.companions, state["companions"], strict=True):
            companion.load_state_dict(saved)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.curves = [Curve(**curve) for curve in state["curves"]]
        self.best.scores, self.skipped = state["scores"], state["skipped"]
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)


def _unaveraged(codec: nn.Module) -> dict[str, Any]:
    """A state for an average that begins with the present weights."""
    return AveragedWeights(codec, 0.0).state_dict()


def select_modules(codec: nn.Module, names: Sequence[str]) -> None:
    """Let only the parameters of these modules be trained, and parameters so named."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(module_of(name, names) is not None)
