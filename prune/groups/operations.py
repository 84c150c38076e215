"""Effects of torch's functions on channels: the same for methods, functions and operators.

Calls are not taken apart by position or keyword where it can be helped: what only moves entries is
called again on the labels, in the very form that the codec used.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prune.groups.atoms import Atoms
from prune.groups.labels import along, compact, merged, none, once, varying

REDUCTIONS = {
    "sum": 1, "nansum": 1, "mean": 1, "nanmean": 1, "amax": 1, "amin": 1, "aminmax": 1, "max": 1,
    "min": 1, "prod": 1, "std": 1, "var": 1, "std_mean": 1, "var_mean": 1, "logsumexp": 1,
    "median": 1, "nanmedian": 1, "mode": 1, "all": 1, "any": 1, "argmax": 1, "argmin": 1,
    "count_nonzero": 1, "norm": 2, "vector_norm": 2, "quantile": 2, "nanquantile": 2,
    "cosine_similarity": 2, "kthvalue": 2,
}  # fmt: skip
"""Functions that make one entry of many -> the place of `dim` in torch's own signature."""
DEFAULTS = {"cosine_similarity": 1, "kthvalue": -1}
ALONG_AN_AXIS = {
    "softmax": 1, "log_softmax": 1, "softmin": 1, "cumsum": 1, "cumprod": 1, "sort": 1,
    "argsort": 1, "logcumsumexp": 1, "normalize": 2, "renorm": 2, "glu": 1, "topk": 2,
}  # fmt: skip
"""Functions that compute an entry of all along `dim` -> its place in torch's signature."""
PRODUCTS = frozenset({
    "matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "einsum", "linear", "mv", "dot", "inner",
    "scaled_dot_product_attention", "baddbmm", "addmm", "addbmm", "tensordot", "outer", "bilinear",
    "cdist", "chain_matmul",
})  # fmt: skip
SPATIAL = frozenset({
    "interpolate", "upsample", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d",
    "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "_max_pool1d", "_max_pool2d", "_max_pool3d", "boolean_dispatch", "fn", "lp_pool1d",
    "lp_pool2d", "grid_sample", "grid_sampler", "affine_grid_generator", "upsample_nearest",
    "upsample_bilinear", "max_pool2d_with_indices", "max_pool1d_with_indices", "max_unpool2d",
    "fractional_max_pool2d",
})  # fmt: skip
"""Functions of (N, C, ...) that keep N and C, and treat each channel by itself."""


class Book:
    """Notes about channels while a codec runs."""

    def __init__(self, units: str) -> None:
        self.atoms = Atoms()
        self.units = units
        """Units of attention over heads that go at once: whole "heads", or "positions" of each."""
        self.held: list[tuple[Tensor, str]] = []
        """Channels that have to stay, and why."""
        self.notes: list[tuple[Tensor, str]] = []
        """Operations on channels that may depend on all of them."""
        self.parameters: list[range] = []
        """Atoms that are entries of a parameter, and channels only if tied to some."""
        self.sums = 0
        self.heads = False
        """Whether there was an attention over heads."""

    def hold(self, labels: Tensor | None, reason: str) -> None:
        if labels is not None:
            self.held.append((_those(labels), reason))

    def is_of_parameter(self, labels: Tensor) -> bool:
        """Whether these are labels of a parameter, or of what is computed from one alone."""
        first = next(iter(_those(labels).tolist()), -1)
        return any(first in span for span in self.parameters)

    def note(self, labels: Tensor | None, what: str) -> None:
        if labels is not None:
            self.notes.append((_those(labels), what))

    def read(self, layer: str, labels: Tensor, dim: int, count: int) -> None:
        """The layer's weights read `labels`, whose channels are dimension `dim`."""
        if labels.shape[dim] == count:
            self.atoms.tie(labels, along(self.atoms.of(layer, "in", count), dim, labels.shape))
        else:
            self.hold(labels, f"read by {layer} in a way that cannot be followed")

    def read_by_sum(self, labels: Tensor) -> None:
        """A sum over channels, as a layer that reads them."""
        summed = _those(labels)
        self.atoms.tie(summed, self.atoms.of(f"sum:{self.sums}", "in", len(summed)))
        self.sums += 1

    def tied_along(self, labels: Tensor, dims: set[int]) -> Tensor:
        """Let everything along `dims` go together; the labels that stand for it."""
        for dim in dims & varying(labels):
            first = labels.narrow(dim, 0, 1)
            self.atoms.tie(labels, first)
            labels = once(first).expand(labels.shape)
        return labels


def _those(labels: Tensor) -> Tensor:
    found = torch.unique(once(labels))
    return found[found >= 0]


# ---------------------------------------------------------------------- entry by entry


def elementwise(book: Book, labels: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Labels of what is computed from several tensors entry by entry.

    What all channels of another tensor meet with one entry, such as a rate's factor or a gate of
    one channel, is tied to none of them; made by a layer, it stays.
    """
    apart = []
    for i, x in enumerate(labels):
        others = [*labels[:i], *labels[i + 1 :]]
        if any(_is_spread(x, other) for other in others):
            if not book.is_of_parameter(x):
                book.hold(x, "each of its channels meets all channels of another tensor")
        else:
            apart.append(x)
    total, *rest = sorted(apart or labels, key=book.is_of_parameter)
    for other in rest:
        book.atoms.tie(total, other)
        total = merged(total, other)
    return total.expand(tuple(shape)) if total.shape != tuple(shape) else total


def _is_spread(x: Tensor, other: Tensor) -> bool:
    """Whether `x` has one entry where `other` has one for each channel."""
    missing = other.dim() - x.dim()
    return any(d < missing or (other.shape[d] > 1 == x.shape[d - missing]) for d in varying(other))


def each_channel(book: Book, name: str, labels: Tensor, shape: Sequence[int]) -> Tensor:
    """Labels of (N, C, ...) behind what keeps N and C."""
    labels = book.tied_along(labels, varying(labels) - {0, 1})
    if tuple(labels.shape[:2]) == tuple(shape[:2]):
        core = once(labels)
        core = core.reshape(*core.shape[:2], *[1] * (len(shape) - 2))
        return core.expand(tuple(shape))
    return unknown(book, name, [labels], shape)


def unknown(book: Book, name: str, labels: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Keep all channels that are read by what cannot be followed."""
    for some in labels:
        book.hold(some, f"read by torch's {name}, behind which channels cannot be followed")
    return none(shape)


# ---------------------------------------------------------------------- many entries to one


def argument(args: tuple, kwargs: dict, place: int, default: Any = None) -> Any:
    """The `dim` of a call, by keyword (torch knows two names of it) or at its place."""
    for key in ("dim", "axis"):
        if key in kwargs:
            return kwargs[key]
    # A tensor given by keyword (`input=`) leaves its place to what follows.
    place -= any(key in kwargs for key in ("input", "self", "tensor"))
    return args[place] if len(args) > place else default


def reduced(
    book: Book, name: str, labels: Tensor, result: Any, args: tuple, kwargs: dict
) -> tuple[Tensor, bool]:
    """Labels behind a reduction, and whether it was over the channels and nothing else."""
    dim = argument(args, kwargs, REDUCTIONS[name], DEFAULTS.get(name))
    first = result[0] if isinstance(result, tuple) else result
    if isinstance(dim, bool | Tensor) or dim in ((), []):
        dim = None
    chosen = range(labels.dim()) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    dims = {d % max(labels.dim(), 1) for d in chosen}
    over = dims & varying(labels)
    if over:
        book.read_by_sum(labels)
        if name not in ("sum", "nansum"):
            book.note(labels, f"{name} over the channels")
        labels = book.tied_along(labels, over) if varying(labels) - over else none(labels.shape)
    core = once(labels)
    for d in sorted(dims, reverse=True):
        core = core.narrow(d, 0, 1)
        if first.dim() < labels.dim():
            core = core.squeeze(d)
    only = bool(over) and dims == over and labels.dim() > 2
    return core.expand(first.shape), only


# ---------------------------------------------------------------------- products


def contracted(
    book: Book,
    one: tuple[Tensor | None, str],
    other: tuple[Tensor | None, str],
    out: str,
    sizes: dict[str, int],
) -> Tensor:
    """Labels of a product of two tensors; a letter for each of their dimensions, as in einsum.

    Letters of both that `out` lacks are summed over: their channels go in pairs, as those of
    queries and keys do. Letters of both that it has are heads.
    """
    shape = [sizes[letter] for letter in out]
    given = [(labels, letters) for labels, letters in (one, other) if labels is not None]
    common = set(one[1]) & set(other[1])
    parts = [(_settled(book, labels, letters, common & set(out)), letters)
             for labels, letters in given]  # fmt: skip
    vary = [{letters[d] for d in varying(labels)} for labels, letters in parts]
    summed = [some - set(out) for some in vary]
    heads = set().union(*vary) & common & set(out)
    if len(parts) == 2 and heads:
        space = "".join(sorted(heads))
        book.atoms.tie(*(_aligned(x, letters, space, sizes) for x, letters in parts))
    if len(parts) == 2 and all(summed):
        space = "".join(sorted({*one[1], *other[1]}))
        book.atoms.tie(*(_aligned(x, letters, space, sizes) for x, letters in parts))
    for (labels, _), some in zip(parts, summed, strict=True):
        if some:
            book.read_by_sum(labels)
    left = []
    for (labels, letters), some in zip(parts, vary, strict=True):
        if some & set(out):
            gone = {d for d, letter in enumerate(letters) if letter not in out}
            left.append((book.tied_along(labels, gone), letters, some & set(out)))
    if len(left) == 2 and all(some - common for _, _, some in left):
        for labels, _, _ in left:
            book.hold(labels, "multiplied channel by channel with others (attention of channels)")
        return none(shape)
    found = none(shape)
    for labels, letters, some in left:
        if some - common or not bool((found >= 0).any()):
            found = _aligned(labels, letters, out, sizes)
    return found


def _settled(book: Book, labels: Tensor, letters: str, heads: set[str]) -> Tensor:
    """Channels over heads: those of a head go together, or a position goes in all heads."""
    vary = varying(labels)
    over = {d for d in vary if letters[d] in heads}
    if not over:
        return labels
    book.heads = True
    return book.tied_along(labels, over if book.units == "positions" else vary - over)


def _aligned(labels: Tensor, letters: str, space: str, sizes: dict[str, int]) -> Tensor:
    """Labels in another order of dimensions; those that `space` lacks are represented by one."""
    for d in reversed(range(len(letters))):
        if letters[d] not in space:
            labels, letters = labels.select(d, 0), letters[:d] + letters[d + 1 :]
    labels = labels.permute([letters.index(x) for x in space if x in letters])
    for d, letter in enumerate(space):
        if letter not in letters:
            labels = labels.unsqueeze(d)
    return labels.expand([sizes[letter] for letter in space])


LETTERS = "abcdefghijklmnopqrstuv"


def matrices(
    book: Book, one: Tensor | None, other: Tensor | None, shapes: Sequence[Sequence[int]],
    shape: Sequence[int],
) -> Tensor:  # fmt: skip
    """Labels of a matrix product of tensors of `shapes`, batched or not."""
    rank = max(len(s) for s in shapes)
    batch = LETTERS[: rank - 2]
    names = [batch[rank - len(s) :] + pair for s, pair in zip(shapes, ("wx", "xy"), strict=True)]
    sizes = {"w": shapes[0][-2], "x": shapes[0][-1], "y": shapes[1][-1]}
    sizes |= {letter: shape[i] for i, letter in enumerate(batch)}
    grown = []
    for labels, letters in zip((one, other), names, strict=True):
        wanted = [sizes[letter] for letter in letters]
        grown.append(None if labels is None else compact(labels.expand(wanted)))
    return contracted(book, (grown[0], names[0]), (grown[1], names[1]), batch + "wy", sizes)


def einsum_labels(
    book: Book, equation: str, labels: Sequence[Tensor | None], shapes: Sequence[Sequence[int]]
) -> Tensor | None:
    """Labels of an einsum of two tensors; None where the equation is of another kind."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or "." in equation:
        return None
    if any(len(set(term)) != len(term) for term in terms):
        return None
    sizes = {
        x: n for term, s in zip(terms, shapes, strict=True) for x, n in zip(term, s, strict=True)
    }
    return contracted(book, (labels[0], terms[0]), (labels[1], terms[1]), out, sizes)


def attention(
    book: Book, parts: Sequence[Tensor | None], shapes: Sequence[Sequence[int]],
    shape: Sequence[int],
) -> Tensor:  # fmt: skip
    """Labels of softmax(q k^T) v."""
    query, key, value = parts
    turned = None if key is None else key.transpose(-1, -2)
    sides = [shapes[0], (*shapes[1][:-2], shapes[1][-1], shapes[1][-2])]
    middle = (*shape[:-1], shapes[1][-2])
    likeness = matrices(book, query, turned, sides, middle)
    return matrices(book, likeness, value, [middle, shapes[2]], shape)
