"""Numbers for channels of layers, and which of them can only go together.

An atom is one channel of one side of one layer. Ties are collected while a codec runs, and atoms
that are tied, directly or over others, make a class: what goes as a whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

NONE = -1
"""No channel: what comes from a constant."""
MOST = 4_000_000
"""Ties that are kept; a codec of full width has some hundred thousand different ones."""


class TooManyError(Exception):
    """A trace has more ties than can be sorted out in seconds."""


class Atoms:
    """The atoms of one codec and the ties between them."""

    def __init__(self) -> None:
        self.starts: dict[tuple[str, str], tuple[int, int]] = {}
        """(layer, side) -> its first atom, and how many it has."""
        self.total = 0
        self._ties: list[Tensor] = []
        self._count = 0
        self._classes: list[int] = []

    def of(self, layer: str, side: str, count: int) -> Tensor:
        """The atoms (`count`,) of one side of a layer, made when they are first asked for."""
        if (layer, side) not in self.starts:
            self.starts[layer, side] = self.total, count
            self.total += count
        start, known = self.starts[layer, side]
        return torch.arange(start, start + min(count, known))

    def tie(self, a: Tensor, b: Tensor) -> None:
        """Atoms at the same place of `a` and `b` go together; the two are broadcast."""
        a, b = torch.broadcast_tensors(a, b)
        for dim in reversed(range(a.dim())):
            if a.shape[dim] > 1 and a.stride(dim) == b.stride(dim) == 0:
                a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
        a, b = a.reshape(-1), b.reshape(-1)
        unlike = (a != b) & (a >= 0) & (b >= 0)
        pairs = torch.stack((a[unlike], b[unlike]), 1)
        pairs = _once(pairs.cpu())
        self._count += len(pairs)
        self._classes = []
        if len(pairs):
            self._ties.append(pairs)
        if self._count > MOST:
            # Every P frame of a trace ties much the same channels as the one before.
            self._ties = [_once(torch.cat(self._ties))]
            self._count = len(self._ties[0])
            if self._count > MOST // 2:
                raise TooManyError

    def classes(self) -> list[int]:
        """By atom the smallest atom that it goes together with."""
        if len(self._classes) == self.total:
            return self._classes
        parents = list(range(self.total))

        def root(atom: int) -> int:
            while parents[atom] != atom:
                parents[atom] = parents[parents[atom]]
                atom = parents[atom]
            return atom

        for pairs in self._ties:
            for a, b in pairs.tolist():
                first, second = sorted((root(a), root(b)))
                parents[second] = first
        self._classes = [root(atom) for atom in range(self.total)]
        return self._classes

    def sides(self) -> Iterator[tuple[str, str, range]]:
        """Every layer and side with its atoms."""
        for (layer, side), (start, count) in self.starts.items():
            yield layer, side, range(start, start + count)


def _once(pairs: Tensor) -> Tensor:
    """Each of `pairs` (n, 2) of numbers below 2^31 once."""
    codes = torch.unique(pairs[:, 0] << 32 | pairs[:, 1])
    return torch.stack((codes >> 32, codes & 0xFFFFFFFF), 1)
