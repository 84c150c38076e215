"""The kinds of steps that read a latent: around known means, by waves, or in two or four parts."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .fields import halves, quarters
from .frame import Frame, Known
from .indices import sixteenths
from .steps import StepKind, latent_of, need
from .tables import OFFSETS
from .wavefront import waves

if TYPE_CHECKING:
    from .wiring import Wiring

ORDINALS = ("second", "third", "fourth")


class Latent(StepKind):
    """The common part of the kinds that read a latent."""

    finds: ClassVar[tuple[str, ...]] = ()
    """Parts of what is expected, STREAM_part, that must be there before."""
    yields: ClassVar[tuple[str, ...]] = ()
    """Parts that its own graph makes of what has been read."""

    def graphs(self) -> list[str]:
        return [self.step.graph] if self.yields else []

    def reads_by(self) -> list[str]:
        return self.parts(self.finds)

    def expects_by(self) -> list[str]:
        return self.graphs()

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


class Relative(Latent):
    """Whole numbers beside means that are all known before; the latent is their sum."""

    finds = ("mean", "scale")

    def carry_out(self, frame: Frame) -> None:
        mean, scale = (frame.tensors[name] for name in self.parts(self.finds))
        name = self.latent()
        told = None if frame.analysis is None else np.rint(frame.sought[name] - mean)
        symbols = frame.relative(name, told, scale, self.step.distribution)
        frame.symbols[name] = symbols.astype(np.int64)
        frame.tensors[name] = symbols.astype(np.float32) + mean


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


class Stepwise(Latent):
    """A latent in several parts, each an array of symbols around what is then expected of it."""

    finds = ("mean", "scale", "step")
    known: ClassVar[str]
    """The name, as STREAM_known, under which later graphs find the parts that have been read."""

    def later(self) -> Sequence[str]:
        """The graphs that expect the second part and those behind it."""
        return self.step.graphs

    @abstractmethod
    def masks(self, shape: Sequence[int]) -> list[np.ndarray]:
        """By part, which elements it has, (1, C, h, w) booleans."""

    def graphs(self) -> list[str]:
        return [*self.later()]

    def _expectations(self) -> list[tuple[str, list[str]]]:
        """Each later graph with the names of the means and the scales that it makes."""
        return [
            (graph, self.parts([f"{ordinal}_mean", f"{ordinal}_scale"]))
            for graph, ordinal in zip(self.later(), ORDINALS, strict=False)
        ]

    def carry_out(self, frame: Frame) -> None:
        name = self.latent()
        mean, scale, size = (frame.tensors[part] for part in self.parts(self.finds))
        scaled = frame.sought[name] / size if frame.analysis is not None else None
        symbols, decoded = np.zeros(mean.shape, np.float32), np.zeros(mean.shape, np.float32)
        later = iter(self._expectations())
        for number, now in enumerate(self.masks(mean.shape)):
            if number:
                graph, expected = next(later)
                known = Known(frame.tensors, **{f"{self.name}_{self.known}": decoded})
                made = frame.run(graph, known)
                mean, scale = (made[part] for part in expected)
            told = None if scaled is None else np.rint(scaled[now] - mean[now])
            symbols[now] = frame.relative(name, told, scale[now], self.step.distribution)
            decoded = np.where(now, symbols + mean, decoded)
        frame.symbols[name] = symbols.astype(np.int64)
        frame.tensors[name] = decoded * size

    def note(self, wiring: "Wiring") -> None:
        super().note(wiring)
        shape = wiring.latent_shape(self.latent())
        made = [name for _, names in self._expectations() for name in names]
        for name in (f"{self.name}_{self.known}", *made):
            wiring.note(name, shape.channels, shape.stride)

    def made(self, wiring: "Wiring", known: set[str], behind_intra: bool) -> set[str]:
        made = super().made(wiring, known, behind_intra)
        for name, expected in self._expectations():
            graph = wiring.graph(name)
            need(graph["inputs"], known | {f"{self.name}_{self.known}"})
            need(expected, graph["outputs"])
        return made


class Checkerboard(Stepwise):
    """A latent in two halves, like the squares of a checkerboard, in units of its quantiser."""

    known = "first"

    def later(self) -> Sequence[str]:
        return [self.step.graph]

    def masks(self, shape: Sequence[int]) -> list[np.ndarray]:
        return halves(shape)

    def carry_out(self, frame: Frame) -> None:
        super().carry_out(frame)
        quantiser = frame.networks.quantiser(self.name, frame.rate)
        frame.tensors[self.latent()] = frame.tensors[self.latent()] * quantiser

    def note(self, wiring: "Wiring") -> None:
        super().note(wiring)
        wiring.told("quantisers", "factors", self.name, self.latent(), wiring.quantisers)


class Quarters(Stepwise):
    """A latent in four parts, each a quarter of the channels at every position."""

    known = "known"

    def masks(self, shape: Sequence[int]) -> list[np.ndarray]:
        return quarters(shape)

    def note(self, wiring: "Wiring") -> None:
        if len(self.step.graphs) != len(ORDINALS):
            raise ValueError(f"it has {len(self.step.graphs)} graphs, not {len(ORDINALS)}")
        super().note(wiring)
