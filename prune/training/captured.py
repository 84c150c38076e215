"""A training step recorded once as a CUDA graph and replayed.

A step of a codec is thousands of small kernels, and starting them one by one takes a processor
longer than a GPU takes to compute them. Replayed, they follow one another without it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before recording, in which libraries choose and set up their kernels."""


class Gradients(NamedTuple):
    """Scalars that one forward and backward pass yields beside the gradients."""

    loss: Tensor
    bpp: Tensor
    mse: Tensor
    norm: Tensor
    """Norm of all gradients together, before they were clipped."""


Pass = Callable[[Tensor, Tensor | None, Tensor], Gradients]
"""Forward and backward over (clip, rates, lambdas); leaves gradients in the parameters."""


class CapturedPass:
    """`work`, recorded for clips (N, T, 3, H, W) like `clip`; called as `work` is.

    The gradients that it leaves are the same tensors each time. Raises RuntimeError where the work
    cannot be recorded, because it waits for the device or moves data to it.
    """

    def __init__(self, work: Pass, clip: Tensor, rates: Tensor | None, lagrangians: Tensor) -> None:
        self.inputs = (clip.clone(), None if rates is None else rates.clone(), lagrangians.clone())
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                work(*self._fresh())
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = work(*self._fresh())

    def __call__(self, clip: Tensor, rates: Tensor | None, lagrangians: Tensor) -> Gradients:
        for mine, given in zip(self.inputs, (clip, rates, lagrangians), strict=True):
            if mine is not None:
                assert given is not None  # the same call as the recorded one
                mine.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.outputs

    def _fresh(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """The inputs, of which the work may change the clip."""
        clip, rates, lagrangians = self.inputs
        return clip.clone(), rates, lagrangians
