"""The transform of a classical codec as initial weights.

A network of strided convolutions learns to pass a picture on through few channels only slowly; a
Karhunen-Loève transform of a model picture does so at once. Pictures are modelled as first-order
Markov fields: neighbours correlate by 0.9, in both directions alike, and colours by 0.97.
Every stage halves the size and keeps the directions that hold most of the variance.
(Jain, Fundamentals of Digital Image Processing, 1989, section 5.11. Its use here is our own.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor, nn

from vcodecs.layers import SubpelConv, bias_of

COLOURS = 3
CORRELATION, COLOUR_CORRELATION = 0.9, 0.97
PICTURE, RESIDUAL = 0.25, 0.03
"""Standard deviations of a colour in a picture, and in what a prediction leaves of it."""
FAINT = 0.004
"""Scale of what starts beside the transform; not zero, so that gradients pass."""


@dataclass(frozen=True)
class TransformStep:
    """One stage: orthonormal `basis` (outputs, inputs, 2, 2), and `deviation` (outputs,)."""

    basis: Tensor
    deviation: Tensor
    """Standard deviations of what comes out, where a colour's is 1."""


@cache
def cascade(
    widths: tuple[int, ...], strides: tuple[int, ...] | None = None
) -> tuple[TransformStep, ...]:
    """Stages from three colours to `widths[-1]` channels; each to 1/`strides` of the size, or half.

    Where a stage could keep more channels than there are, it keeps all that there are.
    """
    strides = strides or (2,) * len(widths)
    side = prod(strides)
    covariance = _covariance(side)
    channels, steps = COLOURS, []
    for width, stride in zip(widths, strides, strict=True):
        # (parts of stride x stride, what is in a part) for rows and for columns of the covariance.
        parts = covariance.reshape((channels, side // stride, stride, side // stride, stride) * 2)
        parts = parts.permute(1, 3, 0, 2, 4, 6, 8, 5, 7, 9)
        count, size = (side // stride) ** 2, channels * stride**2
        parts = parts.reshape(count, size, count, size)
        basis = _principal(parts[0, :, 0], min(width, size))
        covariance = torch.einsum("ai,piqj,bj->apbq", basis, parts, basis)
        deviation = covariance[:, 0, :, 0].diagonal().clamp_min(0).sqrt()
        steps.append(
            TransformStep(basis.reshape(-1, channels, stride, stride).float(), deviation.float())
        )
        channels, side = len(basis), side // stride
    return tuple(steps)


def _covariance(side: int) -> Tensor:
    """(3 * side^2, 3 * side^2), ordered by colour, row, column."""
    places = torch.arange(side, dtype=torch.float64)
    line = CORRELATION ** (places.unsqueeze(1) - places).abs()
    colours = torch.full((COLOURS, COLOURS), COLOUR_CORRELATION, dtype=torch.float64)
    colours.fill_diagonal_(1)
    return torch.kron(colours, torch.kron(line, line))


def _principal(covariance: Tensor, count: int) -> Tensor:
    """(count, size): the directions of most variance, the most first, each mostly positive."""
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :count].T
    peaks = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * peaks.sign()


@torch.no_grad()
def analyse(layer: nn.Conv2d, basis: Tensor) -> None:
    """Let a convolution of stride 2 apply `basis` to its first inputs, and only that."""
    outputs, inputs = basis.shape[:2]
    here = _four_taps(layer)
    layer.weight[:outputs] = 0
    layer.weight[:outputs, :inputs, here, here] = basis
    bias_of(layer)[:outputs] = 0


@torch.no_grad()
def synthesise(layer: SubpelConv | nn.ConvTranspose2d, basis: Tensor) -> None:
    """Let a layer to twice the size undo `basis`, from its first inputs to its first outputs."""
    inputs, outputs = basis.shape[:2]
    if isinstance(layer, nn.ConvTranspose2d):
        here = _four_taps(layer)
        layer.weight[:, :outputs] = 0
        layer.weight[:inputs, :outputs, here, here] = basis
        bias_of(layer)[:outputs] = 0
        return
    inner = layer.inner
    middle = inner.weight.shape[-1] // 2
    inner.weight[: outputs * 4] = 0
    inner.weight[: outputs * 4, :inputs, middle, middle] = basis.flatten(1).T
    bias_of(inner)[: outputs * 4] = 0


@torch.no_grad()
def transform_residual(
    downs: Sequence[nn.Conv2d], ups: Sequence[SubpelConv], gain: float
) -> Tensor:
    """Let `downs` apply the stages to a frame less what is predicted, and `ups` undo them.

    The first of `downs` has the frame's colours and then the prediction's as its first inputs;
    the latent is `gain` times the coefficients. Returns their deviations for colours of 1.
    """
    steps = cascade(tuple(layer.out_channels for layer in downs))
    first, *others, last = (step.basis for step in steps)
    difference = torch.cat((first, -first), dim=1)
    for layer, basis in zip(downs, (difference, *others, gain * last), strict=True):
        analyse(layer, basis)
    for up, basis in zip(ups, (last / gain, *others[::-1], first), strict=True):
        synthesise(up, basis)
    return steps[-1].deviation


@torch.no_grad()
def add_colours(layer: nn.Conv2d) -> None:
    """Add the first inputs, colours, to the first outputs of a layer."""
    middle = layer.kernel_size[0] // 2
    layer.weight[range(COLOURS), range(COLOURS), middle, middle] = 1


def _four_taps(layer: nn.Conv2d | nn.ConvTranspose2d) -> slice:
    """Where in a kernel the two rows (and columns) are that one position stands for."""
    middle = layer.kernel_size[0] // 2
    return slice(middle, middle + 2)
