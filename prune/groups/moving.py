"""Tensors that are split, picked from and padded: what then has to go together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from prune.groups.counts import tie_cut
from prune.groups.labels import once, varying
from prune.groups.operations import Book


def tie_parts(book: Book, labels: Tensor | None, whole: Tensor, outputs: list[Tensor]) -> None:
    """Where a tensor is split in equal parts, each has to lose the same channels."""
    if labels is None or len({x.shape for x in outputs}) > 1 or len(outputs) < 2:
        return
    if outputs[0].dim() < whole.dim():  # unbind
        split = [d for d in varying(labels) if whole.shape[d] == len(outputs)
                 and whole.shape[:d] + whole.shape[d + 1 :] == outputs[0].shape]  # fmt: skip
        book.tied_along(labels, set(split[:1]))
        return
    for d in varying(labels):
        step = outputs[0].shape[d]
        if step * len(outputs) == whole.shape[d] != step:
            for k in range(1, len(outputs)):
                book.atoms.tie(labels.narrow(d, 0, step), labels.narrow(d, k * step, step))


def tie_picked(book: Book, labels: Tensor | None, index: Any) -> None:
    """Tie what is picked by number: as qkv[0] is, goes with its neighbours or not at all."""
    picks = index if isinstance(index, tuple) else (index,)
    if labels is None or any(isinstance(pick, Tensor | list) for pick in picks):
        return
    place = 0
    for i, pick in enumerate(picks):
        if pick is None:
            continue
        if pick is Ellipsis:
            place = labels.dim() - sum(p is not None for p in picks[i + 1 :])
            continue
        if isinstance(pick, int):
            book.tied_along(labels, {place})
        elif isinstance(pick, slice) and pick.step is None:
            tie_cut(book, labels, place, pick.start, pick.stop)
        place += 1


def padded(labels: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Labels behind padding along dimensions where they do not vary; None for another padding."""
    core = once(labels)
    if all(a == b or n == 1 for a, b, n in zip(labels.shape, shape, core.shape, strict=True)):
        return core.expand(tuple(shape))
    return None
