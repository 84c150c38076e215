"""Participants of a training: companions in every step, a validator now and then."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from vcodecs import Stage, VideoCodec


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
        """Figures for the curves and the progress bar."""

    def details(self) -> dict[str, float]:
        """Figures for those who look closer (TensorBoard), by names like `kept/MODULE`."""

    def close(self) -> None:
        """Leave the codec as it was found, but for what it has learnt."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


Validator = Callable[[VideoCodec], dict[str, float]]
"""Scores a codec in eval mode; its "score" is better the lower it is."""
