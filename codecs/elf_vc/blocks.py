"""Delayed merges, the layers between them, and the levels that all transforms read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvc.errors import UserError
from vcodecs.layers import SubpelConv, conv

DEPTH = 4
"""Convolutions of a delayed merge."""
SLOPE = 0.1
CELL = 4
"""Pictures are read and made in cells of 4x4 pixels: no layer runs at more than a quarter size."""
LEVELS = 8


class DelayedMerge(nn.Module):
    """3x3 convolutions that add up, all their results joined once and reduced by a 1x1.

    (N, inputs, h, w) to (N, outputs, h, w); `channels` inside.
    """

    def __init__(self, inputs: int, channels: int, outputs: int | None = None) -> None:
        super().__init__()
        sides = (inputs, *(channels,) * (DEPTH - 1))
        self.convs = nn.ModuleList(conv(side, channels, 3) for side in sides)
        self.merge = conv(DEPTH * channels, outputs or channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.convs
        made = [F.leaky_relu(first(x), SLOPE)]
        for layer in others:
            made.append(made[-1] + F.leaky_relu(layer(made[-1]), SLOPE))
        return self.merge(torch.cat(made, dim=1))


class TwoScales(nn.Module):
    """A delayed merge at full and one at half size, joined and reduced; the channels stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fine = DelayedMerge(channels, channels)
        self.coarse = DelayedMerge(channels, channels)
        self.join = conv(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.coarse(F.avg_pool2d(x, 2))
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return self.join(torch.cat((self.fine(x), coarse), dim=1))


def down(channels: int) -> nn.Conv2d:
    """To half the size; no activation."""
    return conv(channels, channels, 5, 2)


def up(channels: int) -> SubpelConv:
    """To twice the size; no activation."""
    return SubpelConv(channels, channels, kernel=1)


def to_cells(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N, 16 C, H / 4, W / 4)."""
    return F.pixel_unshuffle(x, CELL)


def to_pixels(x: Tensor) -> Tensor:
    """(N, 16 C, h, w) to (N, C, 4 h, 4 w)."""
    return F.pixel_shuffle(x, CELL)


def with_level(parts: Sequence[Tensor], level: Tensor) -> Tensor:
    """Features (N, C, h, w) joined in their channels, the level (N, 8, 1, 1) at every position."""
    size = parts[0].shape
    return torch.cat((*parts, level.expand(size[0], -1, size[2], size[3])), dim=1)


def level_vector(rate: float | Tensor | None, like: Tensor) -> Tensor:
    """(N or 1, 8, 1, 1) of a rate from 0 to 7: its share of the two whole levels beside it."""
    last = LEVELS - 1
    if rate is None:
        raise UserError(f"this codec serves many rates: give one from 0 to {last}")
    rates = torch.as_tensor(rate, dtype=torch.float32, device=like.device).reshape(-1, 1, 1, 1)
    if not rates.is_meta and not bool(((rates >= 0) & (rates <= last)).all()):
        raise UserError(f"rate {rate}: this codec takes one from 0 to {last}")
    levels = torch.arange(LEVELS, dtype=torch.float32, device=like.device).view(1, -1, 1, 1)
    return (1 - (rates - levels).abs()).clamp(min=0)


class LevelWidths(nn.Module):
    """Widths of a latent's quantiser by level and channel; between levels log-linear.

    The paper has it for I frames. (N, 8, 1, 1) to the width's inverse, (N, C, 1, 1).
    """

    def __init__(self, channels: int, least: float, most: float) -> None:
        super().__init__()
        start = torch.linspace(least, most, LEVELS)
        self.log_gain = nn.Parameter(start.unsqueeze(1).repeat(1, channels))

    def forward(self, level: Tensor) -> Tensor:
        return (level.flatten(1) @ self.log_gain).exp()[..., None, None]
