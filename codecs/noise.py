"""Random numbers of a training step that belong to its clips, however the batch is shared out.

Where a batch is split over processes, or into parts that go through a network one after the
other, each part draws the numbers of the whole batch and uses its own. Two processes then train
as one does, and parts as the whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchPart:
    """Clips `first`, `first + 1`, … of a batch of `whole`."""

    first: int
    whole: int


_part: BatchPart | None = None


@contextmanager
def part_of_batch(part: BatchPart | None) -> Iterator[None]:
    """Within it the batch that is seen is `part` of one; None: it is all of it."""
    global _part
    before, _part = _part, part
    try:
        yield
    finally:
        _part = before


def uniform(like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Numbers in [low, high) in the shape of `like`, (N, ...)."""
    return _own(_whole(like).uniform_(low, high), like)


def normal(like: Tensor) -> Tensor:
    """Numbers of mean 0 and deviation 1 in the shape of `like`, (N, ...)."""
    return _own(_whole(like).normal_(), like)


def _whole(like: Tensor) -> Tensor:
    if _part is None:
        return torch.empty_like(like)
    format = torch.contiguous_format
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last):
        format = torch.channels_last
    shape = (_part.whole, *like.shape[1:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=format)


def _own(whole: Tensor, like: Tensor) -> Tensor:
    return whole if _part is None else whole[_part.first : _part.first + len(like)]
