"""The steps that a receiver's program is made of, and a class for each kind of them.

A kind knows what its step does to a frame, which graphs it runs, which shapes it fixes, and which
tensors it needs and makes: the program (`lvc.program`) carries steps out, the wiring (`lvc.wiring`)
asks the same classes whether that can succeed. Kinds that read a latent are in `lvc.latents`, the
table of all kinds is in `lvc.kinds`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from .frame import HYPER_STRIDE, Frame
from .rates import level_weights
from .tables import Distribution

if TYPE_CHECKING:
    from .wiring import Wiring

Kind = Literal[
    "first",
    "factor",
    "level",
    "run",
    "hyper",
    "plain",
    "relative",
    "waves",
    "checkerboard",
    "fields",
    "quarters",
    "keep",
]


MOST_LEVELS = 64
"""Channels of a "level" step, at most."""


@dataclass(frozen=True)
class Step:
    """One step of a program.

    | kind         | name   | does                                                               |
    |--------------|--------|--------------------------------------------------------------------|
    | first        | tensor | behind an I frame: it is `copies` of its picture, joined            |
    | factor       | tensor | it is the rate's factor, one number                                |
    | level        | tensor | it is the shares of the whole rates beside the frame's             |
    | run          | graph  | runs a graph; `after_intra` is the one behind an I frame, if other  |
    | hyper        | stream | reads its hyper latent, whole numbers by channel tables            |
    | plain        | stream | reads whole numbers around STREAM_mean                             |
    | relative     | stream | reads whole numbers and adds STREAM_mean to them                    |
    | waves        | stream | reads by waves; `graph` expects each from what is left and above    |
    | checkerboard | stream | reads in two halves; `graph` expects the second from the first      |
    | quarters     | stream | reads in four parts; `graphs` expect the others from those before   |
    | keep         | tensor | the next frame finds it, as previous_ and its name                 |

    "run" with `graphs` runs one of them, in turn: by the number of P frames since the I frame.
    "fields" is what bundles called "checkerboard" before.
    """

    kind: Kind
    name: str
    graph: str = ""
    after_intra: str = ""
    distribution: Distribution = "laplace"
    copies: int = 1
    graphs: tuple[str, ...] = ()


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

    def keeps(self) -> list[str]:
        """The tensors that the next frame finds because of it."""
        return []

    def reads_by(self) -> list[str]:
        """The tensors by which it reads symbols."""
        return []

    def expects_by(self) -> list[str]:
        """Those of its graphs that make of symbols by what the next ones are read."""
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


class Factor(StepKind):
    """The rate's factor, for rates that act inside the networks."""

    def carry_out(self, frame: Frame) -> None:
        frame.tensors[self.name] = frame.networks.factor(self.name, frame.rate)

    def note(self, wiring: "Wiring") -> None:
        if self.name not in wiring.factors:
            raise ValueError(f"entropy.json: factors: there is none of {self.name}")
        wiring.note(self.name, 1, 0)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        return {self.name}


class Level(StepKind):
    """The rate as a vector with a channel for each whole rate, for networks that read it."""

    def carry_out(self, frame: Frame) -> None:
        count = frame.networks.channels(self.name)
        frame.tensors[self.name] = level_weights(count, frame.rate)

    def note(self, wiring: "Wiring") -> None:
        if (shape := wiring.shapes.get(self.name)) is None:
            raise ValueError(f"no graph has {self.name} as an input")
        if shape.channels > MOST_LEVELS:
            raise ValueError(f"{shape.channels} levels: there can be {MOST_LEVELS}")
        wiring.note(self.name, shape.channels, 0)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        return {self.name}


class Keep(StepKind):
    """A tensor that the next frame finds."""

    def carry_out(self, frame: Frame) -> None:
        """It is kept when the program has ended."""

    def keeps(self) -> list[str]:
        return [self.name]

    def note(self, wiring: "Wiring") -> None:
        kept = f"previous_{self.name}"
        for name, other in ((self.name, kept), (kept, self.name)):
            if (shape := wiring.shapes.get(name)) is not None:
                wiring.note(other, shape.channels, shape.stride)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        need([self.name], known)
        return set()


class Run(StepKind):
    """A graph, once a frame."""

    def carry_out(self, frame: Frame) -> None:
        candidates = self._candidates(frame.behind_intra)
        graph = candidates[frame.position % len(candidates)]
        frame.tensors.update(frame.run(graph, frame.with_nothing_before()))

    def _candidates(self, behind_intra: bool) -> Sequence[str]:
        """The graphs that take turns, by the number of P frames since the I frame; mostly one."""
        if behind_intra and self.step.after_intra:
            return [self.step.after_intra]
        return self.step.graphs or [self.name]

    def graphs(self) -> list[str]:
        return [*dict.fromkeys([*self._candidates(True), *self._candidates(False)])]

    def note(self, wiring: "Wiring") -> None:
        """Its shapes are its graphs' own."""

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        graphs = {name: wiring.graph(name) for name in self.graphs()}
        # A frame finds what all of them make, whichever had its turn.
        made = [
            self._made_by(graphs[name], wiring, known, behind_intra)
            for name in self._candidates(behind_intra)
        ]
        return set.intersection(*made)

    def _made_by(
        self, graph: Mapping, wiring: "Wiring", known: set[str], behind_intra: bool
    ) -> set[str]:
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


def latent_of(stream: str) -> str:
    """The name of a stream's latent."""
    return "latent" if stream == "latent" else f"{stream}_latent"


def need(names: Collection[str], known: Collection[str]) -> None:
    """ValueError where one of `names` is not known."""
    for name in names:
        if name not in known:
            raise ValueError(f"nothing has made {name}")
