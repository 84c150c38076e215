"""Numbers of channels that a codec's code asks for, and what it then does with them.

`n, c, h, w = x.shape` gives `c` as a number that knows whose channels it counts. Where it becomes
a size of another tensor, in `y.reshape(n, heads, c // heads, h * w)`, the two have to lose
channels together; where it becomes a value, such as the scale of an attention, that is noted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from prune.groups.labels import along, none, varying
from prune.groups.operations import Book, argument


class Count(int):
    """A number of channels: the length of `atoms`, divided by `parts`, or `times` as many.

    Without atoms it is computed of such a number in a way that is not followed: it may change,
    and nothing more is known.
    """

    book: Book | None
    atoms: Tensor | None
    parts: int
    times: int

    def __new__(
        cls,
        value: int,
        book: Book | None = None,
        atoms: Tensor | None = None,
        parts: int = 1,
        times: int = 1,
    ) -> Count:
        made = super().__new__(cls, value)
        made.book, made.atoms, made.parts, made.times = book, atoms, parts, times
        return made

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return int, (int(self),)  # a copy, or a file, holds the number alone

    def __floordiv__(self, other: Any) -> Any:
        value = int.__floordiv__(self, other)
        if isinstance(other, Count) or value is NotImplemented:
            return value  # of two widths: a ratio, which stays
        exact = isinstance(other, int) and other > 0 and int(self) % other == 0 and self.times == 1
        known = self.atoms if exact else None
        return Count(value, self.book, known, self.parts * other if exact else 1)

    def __mul__(self, other: Any) -> Any:
        value = int.__mul__(self, other)
        if value is NotImplemented or isinstance(other, Count) or self.parts > 1:
            return value if value is NotImplemented else Count(value)
        return Count(value, self.book, self.atoms, times=self.times * other)

    __rmul__ = __mul__

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        self._as_value()
        return int.__pow__(self, other, modulo) if modulo else int.__pow__(self, other)

    def __float__(self) -> float:
        self._as_value()
        return float(int(self))

    def __truediv__(self, other: Any) -> Any:
        self._as_value()
        return int.__truediv__(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        self._as_value()
        return int.__rtruediv__(self, other)

    def _as_value(self) -> None:
        if self.book is not None:
            self.book.note(
                self.atoms, f"their number as a value{_line()}, which has to be one of __init__'s"
            )


def _loose(operation: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Count, other: Any) -> Any:
        value = operation(self, other)
        return Count(value) if type(value) is int else value

    return method


for _name in ("__add__", "__radd__", "__sub__", "__rsub__"):
    setattr(Count, _name, _loose(getattr(int, _name)))


def _line() -> str:
    """The line of the codec's own code that runs."""
    frame: Any = sys._getframe(2)
    ours = tuple(str(Path(m.__file__ or "").parent) for m in (torch, sys.modules["prune"]))
    while frame is not None and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
    if frame is None:
        return ""
    return f" (at {Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def counted(book: Book, labels: Tensor | None, size: Any) -> Any:
    """A tensor's size, or one of its sides, whose numbers of channels know whose they are."""
    if labels is None or not isinstance(size, torch.Size):
        return size
    return torch.Size(
        Count(n, book, _line_of(labels, d)) if d in varying(labels) else n
        for d, n in enumerate(size)
    )


def _line_of(labels: Tensor, dim: int) -> Tensor:
    """(size along `dim`,): labels at the first place of all other dimensions."""
    for other in range(labels.dim()):
        if other != dim:
            labels = labels.narrow(other, 0, 1)
    return labels.reshape(-1)


# ---------------------------------------------------------------------- sizes of other tensors


def tie_reshaped(book: Book, labels: Tensor, sizes: Sequence[SupportsIndex]) -> Tensor:
    """Labels behind a reshape to `sizes`, one an entry of its shape (-1 for what is left over).

    Where channels are spread over several dimensions, those whose size is a fixed number keep it:
    the same ones go at each of their places.
    """
    vary = varying(labels)
    if len(sizes) != labels.dim():
        return labels
    flexible = {d for d in vary if isinstance(sizes[d], Count) or sizes[d] == -1}
    fixed = vary - flexible
    for d in flexible:
        size = sizes[d]
        if isinstance(size, Count) and size.atoms is not None and size == labels.shape[d]:
            blocks = any(d < other and labels.shape[other] == size.parts for other in fixed)
            _tie(book, labels, d, size, blocks)
    return book.tied_along(labels, fixed) if flexible else labels


def _tie(book: Book, labels: Tensor, dim: int, count: Count, blocks: bool = False) -> None:
    assert count.atoms is not None
    size = labels.shape[dim]
    if count.times > 1:
        rows = [_repeated(_line_of(labels, dim), count)]
    else:
        rows = [*(count.atoms.view(size, -1).t() if blocks else count.atoms.view(-1, size))]
    for row in rows:
        book.atoms.tie(labels, along(row, dim, labels.shape))


def _repeated(line: Tensor, count: Count) -> Tensor:
    """What `times` as many channels are, where those in `line` show it; else no channels."""
    assert count.atoms is not None
    if bool((line.view(-1, count.times) == line.view(-1, count.times)[:, :1]).all()):
        return count.atoms.repeat_interleave(count.times)
    if bool((line.view(count.times, -1) == line.view(count.times, -1)[:1]).all()):
        return count.atoms.repeat(count.times)
    return none(line.shape)


def tie_cut(book: Book, labels: Tensor, dim: int, *bounds: Any) -> None:
    """What is cut off a tensor at a number of channels, as y[:, :c] is."""
    for bound in bounds:
        known = isinstance(bound, Count) and bound.atoms is not None and bound.times == 1
        if known and bound <= labels.shape[dim]:
            _tie(book, labels.narrow(dim, 0, int(bound)), dim, bound)


def tie_parts_by_size(
    book: Book, name: str, labels: Tensor | None, args: tuple, kwargs: dict
) -> None:
    """Parts of a tensor, by narrow or split, whose sizes are numbers of channels."""
    if labels is None:
        return
    if name == "narrow":
        dim, *bounds = args[1:] or (kwargs["dim"],)
        tie_cut(book, labels, dim, *bounds, kwargs.get("start"), kwargs.get("length"))
        return
    sizes = kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    sizes = args[1] if sizes is None and len(args) > 1 else sizes
    dim = argument(args, kwargs, 2, 0) % labels.dim()
    start = 0
    for size in [*sizes] if isinstance(sizes, list | tuple) else [sizes]:
        tie_cut(book, labels.narrow(dim, start, labels.shape[dim] - start), dim, size)
        start += int(size or 0)


def sizes_of(name: str, args: tuple, kwargs: dict, shape: Sequence[int]) -> Sequence[Any] | None:
    """The sizes that a reshape was called with, one for each dimension of the result."""
    given = kwargs.get("shape", kwargs.get("size", kwargs.get("sizes")))
    rest: Any = args[1:] if given is None else ()
    if name == "unflatten":
        dim = kwargs.get("dim", rest[0] if rest else None)
        inner = given if given is not None else (rest[1] if len(rest) > 1 else rest[0])
        if not isinstance(dim, int):
            return None
        whole: list[Any] = list(shape)
        rank = len(shape) - len(inner) + 1
        place = dim % rank
        # What is in front of and behind the dimension stays as it was.
        whole = [*([-1] * place), *inner, *([-1] * (len(shape) - place - len(inner)))]
        return whole
    if given is None:
        given = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
    return given if isinstance(given, tuple | list) else None
