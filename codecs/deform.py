"""Deformable convolution: every tap fetches its input from where a learnt offset points."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from vcodecs.layers import bias_of, conv

GROUPS = 8
"""Consecutive, equal parts of the input's channels; each has offsets of its own."""
TAPS = 9
Operator = Literal["DeformConv", "GridSample"]
"""Its computation: one operator for all, or sampling and a 1x1 convolution."""


class DeformableConv(nn.Conv2d):
    """A 3x3 deformable convolution, not modulated (Dai et al., ICCV 2017), without a bias.

    `conv_offset` makes the offsets: by group, tap (row by row) and direction (down, right), in
    pixels of the input. It starts at zero, which is a plain convolution.
    """

    operator: Operator = "DeformConv"

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=False)
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.conv_offset = conv(channels, GROUPS * TAPS * 2, 3)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(bias_of(self.conv_offset))

    def forward(  # type: ignore[override]  # two inputs, where a plain convolution has one
        self, x: Tensor, steering: Tensor
    ) -> Tensor:
        """`x` (N, C, H, W), fetched bilinearly, zero outside; `steering` has the same size."""
        # Coordinates need float32 also where the networks run in half precision.
        offsets = self.conv_offset(steering).float()
        # On CPUs the gradient of torchvision's operator takes four times as long as of sampling.
        learning = self.training and x.device.type == "cpu"
        if learning or self.operator == "GridSample":
            return sample_and_convolve(x.float(), offsets, self.weight.float())
        return deform_conv2d(x.float(), offsets, self.weight.float(), padding=1)


def sample_and_convolve(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """The same as torchvision's operator (plain, padding 1), of operators that every runtime has.

    All taps of a group are sampled at once, one below the other, and then weighted by a 1x1
    convolution. `x` (N, C, H, W); `offsets` (N, groups * 18, H, W); `weight` (C', C, 3, 3).
    """
    count, channels, height, width = x.shape
    groups = offsets.shape[1] // (2 * TAPS)
    down, right = offsets.reshape(count * groups, TAPS, 2, height, width).unbind(2)
    taps = torch.arange(TAPS, device=x.device).view(TAPS, 1, 1)
    # arange, not linspace: an exported graph then follows the size of its input.
    rows = torch.arange(height, device=x.device).unsqueeze(1) + (taps // 3 - 1)
    columns = torch.arange(width, device=x.device) + (taps % 3 - 1)
    vertical = (rows + down) * (2 / (height - 1)) - 1
    horizontal = (columns + right) * (2 / (width - 1)) - 1
    grid = torch.stack((horizontal, vertical), dim=-1)
    sampled = F.grid_sample(
        x.reshape(count * groups, channels // groups, height, width),
        grid.reshape(count * groups, TAPS * height, width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    sampled = sampled.reshape(count, channels * TAPS, height, width)
    return F.conv2d(sampled, weight.flatten(1)[:, :, None, None])


def has_deformable(codec: nn.Module) -> bool:
    return any(isinstance(layer, DeformableConv) for layer in codec.modules())


@contextmanager
def computed_by(codec: nn.Module, operator: Operator) -> Iterator[None]:
    """Let all deformable convolutions of `codec` be computed by `operator`."""
    layers = [layer for layer in codec.modules() if isinstance(layer, DeformableConv)]
    for layer in layers:
        layer.operator = operator
    try:
        yield
    finally:
        for layer in layers:
            del layer.operator
