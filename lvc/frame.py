"""One frame while it is being coded: what a step finds, and how it reads or writes symbols."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np

from .errors import UserError
from .indices import Coder, levels, sixteenths, split
from .tables import LEVELS, OFFSETS, Distribution, Table, scale_table

if TYPE_CHECKING:
    from .steps import Step

Tensors = dict[str, np.ndarray]
POSITION = "position"
"""P frames since the I frame, for programs whose graphs take turns."""
LEVEL = "level"
"""Which of several networks coded the frame before."""
LATENT_STRIDE, HYPER_STRIDE = 16, 64
"""For a latent or hyper latent that no graph has as an input, and so does not state."""


class Levels(Protocol):
    """The networks of a file: one for all frames, or several, of which a frame's rate takes one."""

    margin: float
    multiple: int
    """Frames are padded to multiples of it."""

    def at(self, rate: float | None) -> "Networks":
        """The networks that code at this rate."""

    @property
    def identity(self) -> str:
        """Identity of the weights and tables, as files name them."""


class Networks(Levels, Protocol):
    """A runner of a codec's graphs that knows its tables, by torch or by a runtime."""

    level: int | None
    """Which of several networks of one file these are; None for the only ones."""

    @property
    def steps(self) -> "Sequence[Step]":
        """The program that a frame is decoded by."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        """Outputs by name; what else is in `inputs` is not looked at."""

    def channels(self, name: str) -> int:
        """Channels of the latent or hyper latent `name`."""

    def stride(self, name: str) -> int:
        """The frame's sides over those of the latent or hyper latent `name`."""

    def hyper_tables(self, stream: str) -> Sequence[Table]:
        """One table a channel."""

    def quantiser(self, stream: str, rate: float | None) -> np.ndarray:
        """(1, C, 1, 1) what the latent of a "checkerboard" step was divided by."""

    def factor(self, name: str, rate: float | None) -> np.ndarray:
        """(1, 1, 1, 1) the factor of a "factor" step."""


Analysis = Callable[[str, Tensors], tuple[np.ndarray, np.ndarray]]
"""The encoder's side: from the stream and the tensors so far to its latent (1, C, h, w), divided
by the quantiser, and its hyper latent. What is not a whole number yet is rounded by the steps."""


@dataclass(frozen=True)
class Predicted:
    """A latent's symbols and what was expected of them, each (n,): `mean` is what was left of the
    mean when the symbols were made."""

    symbols: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    distribution: Distribution


class Frame:
    """A frame in the middle of its program.

    `size`: height and width, padded. `analysis`: only where `coder` writes. Steps find and leave
    `tensors`; behind an I frame only `reference` is there to begin with, `behind_intra`.
    """

    def __init__(
        self,
        networks: Networks,
        coder: Coder,
        before: Tensors,
        size: tuple[int, int],
        rate: float | None,
        analysis: Analysis | None,
    ) -> None:
        self.networks, self.coder, self.rate, self.analysis = networks, coder, rate, analysis
        self.size = size
        self.tensors = Known(before)
        self.behind_intra = not any(name.startswith("previous_") for name in before)
        self.position = 1 + int(before[POSITION].item()) if POSITION in before else 1
        """Number of this P frame behind its I frame, from 1 on."""
        self.sought: Tensors = {}
        """The encoder's latents, which the symbols are made of."""
        self.symbols: dict[str, np.ndarray] = {}
        self.predicted: dict[str, list[Predicted]] = {}

    def grid(self, name: str) -> tuple[int, int]:
        """Rows and columns of a latent or hyper latent."""
        stride = self.networks.stride(name)
        return self.size[0] // stride, self.size[1] // stride

    def with_nothing_before(self) -> Tensors:
        """The tensors; behind an I frame the latents of the frame before are zero."""
        if not self.behind_intra:
            return self.tensors
        return _Zeros(self.tensors, self)

    def run(self, graph: str, inputs: Tensors) -> Tensors:
        """A graph's outputs. A writer writes nothing that a reader would have to call damaged."""
        made = self.networks.run(graph, inputs)
        if self.analysis is not None:
            for name, value in made.items():
                if not np.isfinite(value).all():
                    raise UserError(
                        f"graph {graph} makes values that are no numbers ({name}): the codec's "
                        "weights are damaged, its training diverged, or it cannot code this frame"
                    )
        return made

    def told(self, name: str) -> np.ndarray | None:
        """The encoder's own latent, rounded; None in a decoder."""
        return None if self.analysis is None else np.rint(self.sought[name])

    def keep(self, name: str, symbols: np.ndarray) -> None:
        """A latent or hyper latent that is what was read."""
        self.symbols[name] = symbols.astype(np.int64)
        self.tensors[name] = symbols.astype(np.float32)

    def around(
        self, name: str, mean: np.ndarray, scale: np.ndarray, kind: Distribution
    ) -> np.ndarray:
        """Whole numbers in the shape of `mean`, not relative to it, that may lie anywhere."""
        told, mean, shape = self.told(name), mean.ravel(), mean.shape
        level = levels(self.coder, scale.ravel(), self.networks.margin)
        whole, offset = split(sixteenths(self.coder, mean, self.networks.margin))
        which = level * OFFSETS + offset + OFFSETS // 2
        relative = None if told is None else told.ravel().astype(np.int64) - whole
        found = self.coder.symbols(relative, which, _tables(kind)) + whole
        self.predicted.setdefault(name, []).append(Predicted(found, mean, scale.ravel(), kind))
        return found.reshape(shape)

    def relative(
        self, name: str, told: np.ndarray | None, scale: np.ndarray, kind: Distribution
    ) -> np.ndarray:
        """Whole numbers in the shape of `scale`, around zero."""
        flat, told = scale.ravel(), None if told is None else told.ravel()
        which = levels(self.coder, flat, self.networks.margin) * OFFSETS + OFFSETS // 2
        found = self.coder.symbols(told, which, _tables(kind))
        nothing = np.zeros_like(flat)
        self.predicted.setdefault(name, []).append(Predicted(found, nothing, flat, kind))
        return found.reshape(scale.shape)


class Known(dict):
    """Tensors by name; to ask for one that is not there is a mistake of the networks."""

    def __missing__(self, name: str) -> np.ndarray:
        raise UserError(
            f"the networks need {name!r}, which nothing before them makes: they decode other "
            "frames than these, or their bundle is damaged"
        )


class _Zeros(Known):
    """Tensors of a frame behind an I frame, where latents of the frame before are zero."""

    def __init__(self, tensors: Tensors, frame: Frame) -> None:
        super().__init__(tensors)
        self._frame = frame

    def __missing__(self, name: str) -> np.ndarray:
        if not name.startswith("previous_"):
            return super().__missing__(name)
        latent = name.removeprefix("previous_")
        shape = (1, self._frame.networks.channels(latent), *self._frame.grid(latent))
        return np.zeros(shape, np.float32)


class _Tables(Sequence[Table]):
    """`scale_table` of (level, offset) as one sequence, made when first asked for."""

    def __init__(self, distribution: Distribution) -> None:
        self._distribution = distribution

    def __len__(self) -> int:
        return LEVELS * OFFSETS

    @overload
    def __getitem__(self, number: int) -> Table: ...

    @overload
    def __getitem__(self, number: slice) -> list[Table]: ...

    def __getitem__(self, number: int | slice) -> Table | list[Table]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        level, offset = divmod(number, OFFSETS)
        return scale_table(self._distribution, level, offset - OFFSETS // 2)


_TABLES = {"laplace": _Tables("laplace"), "normal": _Tables("normal")}


def _tables(distribution: Distribution) -> Sequence[Table]:
    return _TABLES[distribution]
