"""The kinds of steps that a receiver's program is made of, a class each.

A kind knows what its step does to a frame, which graphs it runs, which shapes it fixes, and which
tensors it needs and makes: the program (`lvc.program`) carries steps out, the wiring (`lvc.wiring`)
asks the same classes whether that can succeed.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .frame import HYPER_STRIDE, Frame, Known
from .indices import sixteenths
from .tables import OFFSETS, Distribution
from .wavefront import waves

if TYPE_CHECKING:
    from .wiring import Wiring

Kind = Literal["first", "run", "hyper", "plain", "waves", "checkerboard", "fields"]


@dataclass(frozen=True)
class Step:
    """One step of a program.

    | kind         | name   | does                                                               |
    |--------------|--------|--------------------------------------------------------------------|
    | first        | tensor | behind an I frame: it is `copies` of its picture, joined            |
    | run          | graph  | runs a graph; `after_intra` is the one behind an I frame, if other  |
    | hyper        | stream | reads its hyper latent, whole numbers by channel tables            |
    | plain        | stream | reads whole numbers around STREAM_mean                             |
    | waves        | stream | reads by waves; `graph` expects each from what is left and above    |
    | checkerboard | stream | reads in two halves; `graph` expects the second from the first      |

    "fields" is what bundles called "checkerboard" before.
    """

    kind: Kind
    name: str
    graph: str = ""
    after_intra: str = ""
    distribution: Distribution = "laplace"
    copies: int = 1


class StepKind(ABC):
    """A step together with what steps of its kind do."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.name = step.name

    @abstractmethod
    def carry_out(self, frame: Frame) -> None:
        """Do it: tensors of the frame are found and left, symbols read or written."""

    def graphs(self) -> list[str]:
        """The graphs that it may run."""
        return []

    @abstractmethod
    def note(self, wiring: "Wiring") -> None:
        """Tell the shapes that it fixes; ValueError where they contradict others."""

    @abstractmethod
    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        """The tensors that it makes of the `known` ones; ValueError where it misses any."""


class First(StepKind):
    """Stands in for what a P frame would have left."""

    def carry_out(self, frame: Frame) -> None:
        if frame.behind_intra:
            picture = frame.tensors["reference"]
            frame.tensors[self.name] = np.concatenate([picture] * self.step.copies, axis=1)

    def note(self, wiring: "Wiring") -> None:
        wiring.note(self.name, 3 * self.step.copies, 1)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        if behind_intra:
            need(["reference"], known)
        return {self.name} if behind_intra else set()


class Run(StepKind):
    """A graph, once a frame."""

    def carry_out(self, frame: Frame) -> None:
        graph = self._graph(frame.behind_intra)
        frame.tensors.update(frame.run(graph, frame.with_nothing_before()))

    def _graph(self, behind_intra: bool) -> str:
        return (behind_intra and self.step.after_intra) or self.name

    def graphs(self) -> list[str]:
        return [name for name in (self.name, self.step.after_intra) if name]

    def note(self, wiring: "Wiring") -> None:
        """Its shapes are its graphs' own."""

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        graphs = {name: wiring.graph(name) for name in self.graphs()}
        graph = graphs[self._graph(behind_intra)]
        # Behind an I frame the latents of the frame before are zero.
        zero = {name for name in graph["inputs"] if behind_intra and wiring.is_latent_before(name)}
        need(graph["inputs"], known | zero)
        return set(graph["outputs"])


class Hyper(StepKind):
    """The hyper latent of a stream, each channel by a table of its own."""

    def carry_out(self, frame: Frame) -> None:
        name = f"{self.name}_hyper"
        if frame.analysis is not None:
            latent, hyper = frame.analysis(self.name, frame.tensors)
            frame.sought[latent_of(self.name)] = latent
            frame.sought[name] = hyper
        tables = frame.networks.hyper_tables(self.name)
        shape = (1, len(tables), *frame.grid(name))
        which = np.repeat(np.arange(len(tables)), shape[2] * shape[3])
        told = frame.told(name)
        told = None if told is None else told.ravel()
        frame.keep(name, frame.coder.symbols(told, which, tables).reshape(shape))

    def note(self, wiring: "Wiring") -> None:
        name = f"{self.name}_hyper"
        channels = wiring.told("hyper", "tables", self.name, name, wiring.tables)
        wiring.note(name, channels, wiring.stride(name) or HYPER_STRIDE)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        return {f"{self.name}_hyper"}


class Latent(StepKind):
    """The common part of the kinds that read a latent."""

    finds: ClassVar[tuple[str, ...]] = ()
    """Parts of what is expected, STREAM_part, that must be there before."""
    yields: ClassVar[tuple[str, ...]] = ()
    """Parts that its own graph makes of what has been read."""

    def graphs(self) -> list[str]:
        return [self.step.graph] if self.yields else []

    def latent(self) -> str:
        return latent_of(self.name)

    def parts(self, names: Sequence[str]) -> list[str]:
        """STREAM_part of each."""
        return [f"{self.name}_{part}" for part in names]

    def note(self, wiring: "Wiring") -> None:
        shape = wiring.latent_shape(self.latent())
        for name in (self.latent(), *self.parts(self.finds), *self.parts(self.yields)):
            wiring.note(name, shape.channels, shape.stride)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        need(self.parts(self.finds), known)
        return {self.latent()}

    def _yielded(self, graph: Mapping) -> None:
        need(self.parts(self.yields), graph["outputs"])


class Plain(Latent):
    """Whole numbers around means that are all known before."""

    finds = ("mean", "scale")

    def carry_out(self, frame: Frame) -> None:
        mean, scale = (frame.tensors[name] for name in self.parts(self.finds))
        name = self.latent()
        frame.keep(name, frame.around(name, mean, scale, self.step.distribution))


class Waves(Latent):
    """Symbols are what is left of the latent when its mean, expected wave by wave, is off.

    The mean is rounded to sixteenths: each wave is expected from those before it, and what
    differed by a rounding error in one would differ by far more some waves on.
    """

    yields = ("mean", "scale")

    def carry_out(self, frame: Frame) -> None:
        networks, name = frame.networks, self.latent()
        grid = frame.grid(name)
        known = {
            key: np.ascontiguousarray(value[0].transpose(1, 2, 0))
            for key, value in frame.tensors.items()
            if value.shape[2:] == grid
        }
        sought = None if frame.analysis is None else frame.sought[name][0]
        symbols = np.zeros((1, networks.channels(name), *grid), np.float32)
        padded = np.pad(symbols[0], ((0, 0), (2, 0), (2, 2)))
        patches = sliding_window_view(sliding_window_view(padded, 3, axis=1), 5, axis=2)
        decoded = padded[:, 2:, 2:-2]
        for rows, columns in waves(*grid):
            given = {key: value[rows, columns, :, None, None] for key, value in known.items()}
            given[f"{name}_patch"] = patches[:, rows, columns].swapaxes(0, 1)
            made = frame.run(self.step.graph, given)
            mean, scale = (made[part][..., 0, 0].T for part in self.parts(self.yields))
            found = sixteenths(frame.coder, mean.ravel(), networks.margin).reshape(mean.shape)
            mean = (found / OFFSETS).astype(np.float32)
            told = None if sought is None else np.rint(sought[:, rows, columns] - mean)
            symbols[0][:, rows, columns] = frame.relative(name, told, scale, self.step.distribution)
            decoded[:, rows, columns] = symbols[0][:, rows, columns] + mean
        frame.symbols[name] = symbols.astype(np.int64)
        frame.tensors[name] = decoded[None].copy()

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        graph = wiring.graph(self.step.graph, positions=True)
        stride = wiring.stride(self.latent())
        beside = {name for name in known if wiring.stride(name) == stride}
        need(graph["inputs"], beside | {f"{self.latent()}_patch"})
        self._yielded(graph)
        return super().made(wiring, known, behind_intra)


class Checkerboard(Latent):
    """The latent in two halves, like the squares of a checkerboard, as two arrays of symbols."""

    finds = ("mean", "scale", "step")
    yields = ("second_mean", "second_scale")

    def carry_out(self, frame: Frame) -> None:
        name, networks = self.latent(), frame.networks
        mean, scale, size = (frame.tensors[part] for part in self.parts(self.finds))
        first = first_half(mean.shape)
        scaled = frame.sought[name] / size if frame.analysis is not None else None
        symbols = np.zeros(mean.shape, np.float32)

        def read(half: np.ndarray, means: np.ndarray, scales: np.ndarray) -> None:
            told = None if scaled is None else np.rint(scaled[half] - means[half])
            symbols[half] = frame.relative(name, told, scales[half], self.step.distribution)

        read(first, mean, scale)
        decoded = np.where(first, symbols + mean, np.float32(0))
        with_first = Known(frame.tensors, **{f"{self.name}_first": decoded})
        made = frame.run(self.step.graph, with_first)
        later, scales = (made[part] for part in self.parts(self.yields))
        read(~first, later, scales)
        decoded = np.where(first, decoded, symbols + later)
        frame.symbols[name] = symbols.astype(np.int64)
        frame.tensors[name] = decoded * size * networks.quantiser(self.name, frame.rate)

    def note(self, wiring: "Wiring") -> None:
        super().note(wiring)
        latent = self.latent()
        shape = wiring.latent_shape(latent)
        wiring.note(f"{self.name}_first", shape.channels, shape.stride)
        wiring.told("quantisers", "factors", self.name, latent, wiring.quantisers)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        need(self.parts(self.finds), known)
        graph = wiring.graph(self.step.graph)
        need(graph["inputs"], known | {f"{self.name}_first"})
        self._yielded(graph)
        return {self.latent()}


KINDS: dict[str, type[StepKind]] = {
    "first": First,
    "run": Run,
    "hyper": Hyper,
    "plain": Plain,
    "waves": Waves,
    "checkerboard": Checkerboard,
    "fields": Checkerboard,
}


def kind_of(step: Step) -> StepKind:
    """The step with what its kind does."""
    return KINDS[step.kind](step)


def latent_of(stream: str) -> str:
    """The name of a stream's latent."""
    return "latent" if stream == "latent" else f"{stream}_latent"


def first_half(shape: Sequence[int]) -> np.ndarray:
    """(1, C, h, w) booleans: a checkerboard's white squares for the first half of the channels,
    its black ones for the second (Li et al., ACM MM 2022, section 3.3)."""
    _, channels, height, width = shape
    white = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    half = np.arange(channels) < channels // 2
    return (half[:, None, None] == white)[None]


def need(names: Collection[str], known: Collection[str]) -> None:
    """ValueError where one of `names` is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"nothing has made {name}")
