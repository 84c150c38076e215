"""How the receiver makes a frame of its symbols: a short program over named tensors.

A codec states it once, as steps; the encoder and every decoder, with torch or with onnxruntime,
run the same one. `tensors` holds float32 arrays (1, C, h, w) by the names of the decoder graphs'
inputs and outputs. The encoder runs along as a receiver that is told its symbols.

Names follow the stream ("motion", "latent"): STREAM_hyper is its hyper latent, STREAM_mean and
STREAM_scale what is expected of it, and the latent itself is called STREAM_latent, or just
"latent" for the stream of that name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .coder import PayloadError, Reader
from .errors import UserError
from .indices import Coder, levels, sixteenths, split
from .tables import LEVELS, OFFSETS, Distribution, Table, scale_table
from .wavefront import waves

Tensors = dict[str, np.ndarray]
Kind = Literal["first", "run", "hyper", "plain", "waves", "fields"]


@dataclass(frozen=True)
class Step:
    """One step of a program.

    | kind   | name   | does                                                              |
    |--------|--------|-------------------------------------------------------------------|
    | first  | tensor | behind an I frame: it is `copies` of its picture, joined           |
    | run    | graph  | runs a graph; `after_intra` is the one behind an I frame, if other |
    | hyper  | stream | reads its hyper latent, whole numbers by channel tables           |
    | plain  | stream | reads whole numbers around STREAM_mean                            |
    | waves  | stream | reads by waves; `graph` expects each from what is left and above   |
    | fields | stream | reads in two steps; `graph` expects the second from the first     |
    """

    kind: Kind
    name: str
    graph: str = ""
    after_intra: str = ""
    distribution: Distribution = "laplace"
    copies: int = 1


class Networks(Protocol):
    """What runs a codec's graphs and knows its tables, by torch or by onnxruntime."""

    margin: float

    @property
    def steps(self) -> Sequence[Step]:
        """What a frame is decoded by."""

    @property
    def identity(self) -> str:
        """Identity of the weights and tables, as files name them."""

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        """Outputs by name; what else is in `inputs` is not looked at."""

    def channels(self, name: str) -> int:
        """Channels of the latent or hyper latent `name`."""

    def stride(self, name: str) -> int:
        """The frame's sides over those of the latent or hyper latent `name`, at most 64."""

    def hyper_tables(self, stream: str) -> Sequence[Table]:
        """One table a channel."""

    def quantiser(self, stream: str, rate: float | None) -> np.ndarray:
        """(1, C, 1, 1) what the latent of a "fields" step was divided by."""


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


@dataclass(frozen=True)
class CodedTensors:
    """A coded frame: the tensors that the next one starts from, the symbols by name, and for each
    latent what they were coded by (for estimates; nothing that a decoder needs)."""

    following: Tensors
    symbols: dict[str, np.ndarray]
    predicted: dict[str, list[Predicted]]


def code_frame(
    networks: Networks,
    coder: Coder,
    before: Tensors,
    size: tuple[int, int],
    rate: float | None = None,
    analysis: Analysis | None = None,
) -> CodedTensors:
    """Code one frame.

    `before`: those of the frame before ({} for a codec of I frames, {"reference": picture} behind
    an I frame). `size`: height and width, multiples of 64. `analysis`: only where `coder` writes.
    """
    return _Frame(networks, coder, before, size, rate, analysis).code()


def decompress(
    networks: Networks,
    payload: bytes,
    before: Tensors,
    size: tuple[int, int],
    rate: float | None = None,
) -> CodedTensors:
    """The frame that a payload holds, as `code_frame`; PayloadError where it is damaged."""
    reader = Reader(payload)
    coded = code_frame(networks, reader, before, size, rate)
    reader.finish()
    if not np.isfinite(coded.following["reference"]).all():
        raise PayloadError("it decodes to a picture with values that are no numbers")
    return coded


class _Frame:
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
        self.tensors = _Known(before)
        self.behind_intra = not any(name.startswith("previous_") for name in before)
        self.sought: Tensors = {}
        """The encoder's latents, which the symbols are made of."""
        self.symbols: dict[str, np.ndarray] = {}
        self.predicted: dict[str, list[Predicted]] = {}

    def code(self) -> CodedTensors:
        act = {
            "first": self._first,
            "run": self._run,
            "hyper": self._hyper,
            "plain": self._plain,
            "waves": self._waves,
            "fields": self._fields,
        }
        for step in self.networks.steps:
            act[step.kind](step)
        return CodedTensors(self._following(), self.symbols, self.predicted)

    def _following(self) -> Tensors:
        kept = {"reference": self.tensors["frame"]}
        for name in ("feature", "latent", "motion_latent"):
            if name in self.tensors:
                kept[f"previous_{name}"] = self.tensors[name]
        return kept

    def _grid(self, stride: int) -> tuple[int, int]:
        return self.size[0] // stride, self.size[1] // stride

    # ------------------------------------------------------------------ steps

    def _first(self, step: Step) -> None:
        if self.behind_intra:
            picture = self.tensors["reference"]
            self.tensors[step.name] = np.concatenate([picture] * step.copies, axis=1)

    def _run(self, step: Step) -> None:
        graph = step.after_intra if self.behind_intra and step.after_intra else step.name
        self.tensors.update(self._made(graph, self._with_nothing_before()))

    def _made(self, graph: str, inputs: Tensors) -> Tensors:
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

    def _with_nothing_before(self) -> Tensors:
        """Behind an I frame the latents of the frame before are zero."""
        if not self.behind_intra:
            return self.tensors
        return _Zeros(self.tensors, self.networks, self._grid)

    def _hyper(self, step: Step) -> None:
        if self.analysis is not None:
            latent, hyper = self.analysis(step.name, self.tensors)
            self.sought[latent_of(step.name)] = latent
            self.sought[f"{step.name}_hyper"] = np.rint(hyper)
        tables = self.networks.hyper_tables(step.name)
        shape = (1, len(tables), *self._grid(self.networks.stride(f"{step.name}_hyper")))
        which = np.repeat(np.arange(len(tables)), shape[2] * shape[3])
        name = f"{step.name}_hyper"
        told = self._told(name)
        told = None if told is None else told.ravel()
        self._keep(name, self.coder.symbols(told, which, tables).reshape(shape))

    def _plain(self, step: Step) -> None:
        name = latent_of(step.name)
        mean, scale = (self.tensors[f"{step.name}_{part}"] for part in ("mean", "scale"))
        self._keep(name, self._around(name, mean, scale, step.distribution))

    def _waves(self, step: Step) -> None:
        """Symbols are what is left of the latent when its mean, expected wave by wave, is off.

        The mean is rounded to sixteenths: each wave is expected from those before it, and what
        differed by a rounding error in one would differ by far more some waves on.
        """
        networks, name = self.networks, latent_of(step.name)
        grid = self._grid(networks.stride(name))
        known = {
            key: np.ascontiguousarray(value[0].transpose(1, 2, 0))
            for key, value in self.tensors.items()
            if value.shape[2:] == grid
        }
        sought = None if self.analysis is None else self.sought[name][0]
        symbols = np.zeros((1, networks.channels(name), *grid), np.float32)
        padded = np.pad(symbols[0], ((0, 0), (2, 0), (2, 2)))
        patches = sliding_window_view(sliding_window_view(padded, 3, axis=1), 5, axis=2)
        decoded = padded[:, 2:, 2:-2]
        for rows, columns in waves(*grid):
            given = {key: value[rows, columns, :, None, None] for key, value in known.items()}
            given[f"{name}_patch"] = patches[:, rows, columns].swapaxes(0, 1)
            made = self._made(step.graph, given)
            mean, scale = (made[f"{step.name}_{part}"][..., 0, 0].T for part in ("mean", "scale"))
            found = sixteenths(self.coder, mean.ravel(), networks.margin).reshape(mean.shape)
            mean = (found / OFFSETS).astype(np.float32)
            told = None if sought is None else np.rint(sought[:, rows, columns] - mean)
            symbols[0][:, rows, columns] = self._relative(name, told, scale, step.distribution)
            decoded[:, rows, columns] = symbols[0][:, rows, columns] + mean
        self.symbols[name] = symbols.astype(np.int64)
        self.tensors[name] = decoded[None].copy()

    def _fields(self, step: Step) -> None:
        """The first step's fields, then the others, as two arrays of symbols."""
        name, networks = latent_of(step.name), self.networks
        mean, scale, size = (self.tensors[f"{step.name}_{p}"] for p in ("mean", "scale", "step"))
        first = first_fields(mean.shape)
        scaled = self.sought[name] / size if self.analysis is not None else None
        symbols = np.zeros(mean.shape, np.float32)

        def read(fields: np.ndarray, means: np.ndarray, scales: np.ndarray) -> None:
            told = None if scaled is None else np.rint(scaled[fields] - means[fields])
            symbols[fields] = self._relative(name, told, scales[fields], step.distribution)

        read(first, mean, scale)
        decoded = np.where(first, symbols + mean, np.float32(0))
        with_first = _Known(self.tensors, **{f"{step.name}_first": decoded})
        made = self._made(step.graph, with_first)
        later, scales = (made[f"{step.name}_second_{part}"] for part in ("mean", "scale"))
        read(~first, later, scales)
        decoded = np.where(first, decoded, symbols + later)
        self.symbols[name] = symbols.astype(np.int64)
        self.tensors[name] = decoded * size * networks.quantiser(step.name, self.rate)

    # ------------------------------------------------------------------ symbols

    def _around(
        self, name: str, mean: np.ndarray, scale: np.ndarray, kind: Distribution
    ) -> np.ndarray:
        """Whole numbers in the shape of `mean`, not relative to it, that may lie anywhere."""
        told, mean, shape = self._told(name), mean.ravel(), mean.shape
        level = levels(self.coder, scale.ravel(), self.networks.margin)
        whole, offset = split(sixteenths(self.coder, mean, self.networks.margin))
        which = level * OFFSETS + offset + OFFSETS // 2
        relative = None if told is None else told.ravel().astype(np.int64) - whole
        found = self.coder.symbols(relative, which, _tables(kind)) + whole
        self.predicted.setdefault(name, []).append(Predicted(found, mean, scale.ravel(), kind))
        return found.reshape(shape)

    def _relative(
        self, name: str, told: np.ndarray | None, scale: np.ndarray, kind: Distribution
    ) -> np.ndarray:
        """Whole numbers in the shape of `scale`, around zero."""
        flat, told = scale.ravel(), None if told is None else told.ravel()
        which = levels(self.coder, flat, self.networks.margin) * OFFSETS + OFFSETS // 2
        found = self.coder.symbols(told, which, _tables(kind))
        nothing = np.zeros_like(flat)
        self.predicted.setdefault(name, []).append(Predicted(found, nothing, flat, kind))
        return found.reshape(scale.shape)

    def _told(self, name: str) -> np.ndarray | None:
        """What the encoder wants to say; None in a decoder."""
        return None if self.analysis is None else np.rint(self.sought[name])

    def _keep(self, name: str, symbols: np.ndarray) -> None:
        self.symbols[name] = symbols.astype(np.int64)
        self.tensors[name] = symbols.astype(np.float32)


class _Known(dict):
    """Tensors by name; to ask for one that is not there is a mistake of the networks."""

    def __missing__(self, name: str) -> np.ndarray:
        raise UserError(
            f"the networks need {name!r}, which nothing before them makes: they decode other "
            "frames than these, or their bundle is damaged"
        )


class _Zeros(_Known):
    """Tensors of a frame behind an I frame, where latents of the frame before are zero."""

    def __init__(
        self, tensors: Tensors, networks: Networks, grid: Callable[[int], tuple[int, int]]
    ) -> None:
        super().__init__(tensors)
        self._networks, self._grid = networks, grid

    def __missing__(self, name: str) -> np.ndarray:
        if not name.startswith("previous_"):
            return super().__missing__(name)
        latent, networks = name.removeprefix("previous_"), self._networks
        shape = (1, networks.channels(latent), *self._grid(networks.stride(latent)))
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


def latent_of(stream: str) -> str:
    """The name of a stream's latent."""
    return "latent" if stream == "latent" else f"{stream}_latent"


def first_fields(shape: Sequence[int]) -> np.ndarray:
    """(1, C, h, w) booleans: a checkerboard's white fields for the first half of the channels,
    its black ones for the second (Li et al., ACM MM 2022, section 3.3)."""
    _, channels, height, width = shape
    white = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    half = np.arange(channels) < channels // 2
    return (half[:, None, None] == white)[None]
