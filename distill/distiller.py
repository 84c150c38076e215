"""Layer-wise distillation: a companion of the trainer that adds the taps' loss.

Two sources for the teacher's feature at a tap. `local`: the teacher's block applied to the
student's own input, so that each block answers for its own error. `network`: the teacher's own
run over the same frames with its own references, so that errors that add up are seen. A teacher
of other widths can only be a network by itself; `adapters` then stand between the features.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill.adapters import Adapters
from distill.losses import distortion
from distill.taps import Tap, listen, select, widen
from distill.weights import AdaptiveWeights
from vcodecs import Reference, Stage, VideoCodec
from vcodecs.parts import module_of

SOURCES = ("local", "network")


class Distiller:
    """Compares `student` with the frozen `teacher` at `taps`.

    A stage updates only its modules; only their taps count in it.
    """

    def __init__(
        self,
        student: VideoCodec,
        teacher: VideoCodec,
        taps: Sequence[Tap],
        source: str = "local",
        weight: float = 1.0,
        weights: AdaptiveWeights | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"source {source!r} is none of {SOURCES}")
        if adapters and source != "network":
            raise ValueError("adapters need source 'network': blocks of other widths cannot be fed")
        self.teacher = teacher.requires_grad_(False).train()
        self.taps = {tap.name: tap for tap in taps}
        self.source, self.weight = source, weight
        self.weights = weights or AdaptiveWeights()
        self.adapters = adapters or {}
        self.active: set[str] = set()
        self._terms: dict[str, list[Tensor]] = {}
        self._truth: dict[str, list[Tensor]] = {}
        """By tap what the teacher made of the frame that the student codes now, call by call."""
        self._reference: Reference | None = None
        self._coded: list[tuple[Tensor, Reference]] = []
        """The step's frames so far, each with the reference that the teacher coded it from."""
        self._hooks = listen(student, tuple(self.taps), self._compare)
        if source == "network":
            self._hooks += listen(teacher, tuple(self.taps), self._remember)
            self._hooks.append(
                student.register_forward_pre_hook(self._run_teacher, with_kwargs=True)
            )

    # ------------------------------------------------------------------ companion of the trainer

    def parameter_groups(self) -> list[dict[str, Any]]:
        own = [p for adapter in self.adapters.values() for p in adapter.parameters()]
        return [{"params": own}] if own else []

    def begin_step(self, stage: Stage, progress: float) -> None:
        self.active = {name for name in self.taps if module_of(name, stage.modules)}
        self._terms = {}
        self._reference, self._coded = None, []

    def loss(self) -> Tensor | float:
        """Weighted mean of the distortions of the taps that this step has passed."""
        means = {name: torch.stack(terms).mean() for name, terms in self._terms.items()}
        if not means:
            return 0.0
        self.weights.update(_over_processes(means))
        shares = self.weights.shares(list(means))
        return self.weight * sum(shares[name] * mean for name, mean in means.items())

    def end_step(self) -> None:
        self._terms, self._truth, self._coded = {}, {}, []

    def figures(self) -> dict[str, float]:
        # In the taps' order: a set's is another in every process, and with it the last digits.
        active = [name for name in self.taps if name in self.active]
        running = [self.weights.running[n] for n in active if n in self.weights.running]
        return {"distillation": sum(running) / len(running)} if running else {}

    def details(self) -> dict[str, float]:
        """The running distortion of each tap that is compared now."""
        running = self.weights.running
        return {f"distortion/{name}": running[name] for name in self.taps
                if name in self.active and name in running}  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        learnt = {name: adapter.state_dict() for name, adapter in self.adapters.items()}
        return {"running": dict(self.weights.running), "adapters": learnt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.running = dict(state["running"])
        for name, adapter in self.adapters.items():
            adapter.load_state_dict(state["adapters"][name])

    def close(self) -> None:
        """Leave the student as it was before."""
        for hook in self._hooks:
            hook.remove()

    # ------------------------------------------------------------------ features

    def _compare(self, name: str, given: Tensor, feature: Tensor) -> None:
        """A tap of the student has run: add its distortion."""
        if name not in self.active or not torch.is_grad_enabled():
            return
        tap = self.taps[name]
        local = self.source == "local"
        target = self._local_target(tap, given) if local else self._truth[name].pop(0)
        if name in self.adapters:
            feature = self.adapters[name](feature)
        self._terms.setdefault(name, []).append(distortion(feature, select(target, tap.outputs)))

    @torch.no_grad()
    def _local_target(self, tap: Tap, given: Tensor) -> Tensor:
        block = self.teacher.get_submodule(tap.name)
        return block(widen(given.detach(), tap.inputs, _input_channels(block)))

    def _remember(self, name: str, _given: Tensor, feature: Tensor) -> None:
        self._truth.setdefault(name, []).append(feature)

    @torch.no_grad()
    def _run_teacher(self, _student: nn.Module, inputs: tuple, named: dict[str, Any]) -> None:
        """Code the frame that the student is about to code, from the teacher's own reference.

        Where activations are not kept, the student codes each frame again on the way back, and so
        does the teacher, from what it had then.
        """
        self._truth = {}
        frame, reference, *rest = inputs
        before = next((then for coded, then in self._coded if coded is frame), None)
        if before is not None:
            self.teacher(frame, before, *rest, **named)
            return
        before = self._reference or reference.detached()
        self._coded.append((frame, before))
        self._reference = self.teacher(frame, before, *rest, **named).reference


def _over_processes(means: dict[str, Tensor]) -> dict[str, float]:
    """Distortions over the clips of all processes of the training, in the order of `means`."""
    values = torch.stack([mean.detach() for mean in means.values()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(means, values.tolist(), strict=True))


def _input_channels(block: nn.Module) -> int:
    first = next(m for m in block.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
    return first.in_channels
