"""Building blocks that came with DCVC-DC and DCVC-SDD, with the official names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.layers import GroupedConv, conv, layer_of
from vcodecs.motion import MovedGroups, warp

WIDE = 4
"""So many times wider is a block's second half inside."""
MOST_INSIDE = 1024
"""Widest inside of a block's second half, as long as that is twice its outputs."""
FARTHEST = 40.0
"""Offsets are at most so many pixels beside the motion."""
OFFSETS = 2
"""Places that every group of channels is fetched from."""


class DepthConvBlock(nn.Module):
    """A depthwise half and a pointwise half, each beside a skip; (N, `inputs`, H, W) to `outputs`.

    Keys: block.0.conv1.0, block.0.depth_conv, block.0.conv2, block.0.adaptor (where the width
    changes), block.1.conv.0, block.1.conv.2.
    """

    def __init__(self, inputs: int, outputs: int, wide: int = WIDE) -> None:
        super().__init__()
        self.block = nn.Sequential(DepthwiseHalf(inputs, outputs), PointwiseHalf(outputs, wide))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)

    def halves(self) -> tuple["DepthwiseHalf", "PointwiseHalf"]:
        """The depthwise half, then the pointwise one."""
        return layer_of(self.block, 0, DepthwiseHalf), layer_of(self.block, 1, PointwiseHalf)


class DepthwiseHalf(nn.Module):
    """skip(x) + conv2(depth_conv(lrelu(conv1(x)))); nothing activates behind the depthwise one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(conv(inputs, inputs, 1), nn.LeakyReLU())
        self.depth_conv = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.conv2 = conv(inputs, outputs, 1)
        self.adaptor = None if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.adaptor is None else self.adaptor(x)
        return skip + self.conv2(self.depth_conv(self.conv1(x)))


class PointwiseHalf(nn.Module):
    """x + lrelu(conv(lrelu(conv(x)))), slope 0.1, wide inside."""

    def __init__(self, channels: int, wide: int = WIDE) -> None:
        super().__init__()
        inside = max(min(wide * channels, MOST_INSIDE), 2 * channels)
        self.conv = nn.Sequential(
            conv(channels, inside, 1),
            nn.LeakyReLU(0.1),
            conv(inside, channels, 1),
            nn.LeakyReLU(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class ConvLSTM(nn.Module):
    """One cell: what is kept of all features so far (Shi et al., NeurIPS 2015, no peepholes)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(2 * channels, 4 * channels, 3)

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Hidden and cell state, each (N, C, H, W) as `x`; zeros are before the first frame."""
        hidden, cell = before or self._nothing(x)
        gates = self.conv(torch.cat((x, hidden), dim=1)).float()
        into, forget, out, new = gates.chunk(4, 1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(into) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell

    def _nothing(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # By the layer's own width: what enters and what is kept may lose different channels.
        kept = self.conv.out_channels // 4
        zeros = x.new_zeros(x.shape[0], kept, *x.shape[2:])
        return zeros, zeros


class OffsetDiversity(nn.Module):
    """Alignment that fetches each group of channels from two gated places beside the motion.

    (Li, Li, Lu, CVPR 2023, section 3.3.) Offsets and gates come from what a plain warp yields.
    """

    def __init__(self, channels: int, groups: int, width: int) -> None:
        super().__init__()
        places = groups * OFFSETS
        self.conv_offset = nn.Sequential(
            conv(channels + 5, width, 3, 2),
            nn.LeakyReLU(0.1),
            conv(width, width, 3),
            nn.LeakyReLU(0.1),
            conv(width, 3 * places, 3),
        )
        self.moved = MovedGroups(groups, OFFSETS)
        self.fusion = GroupedConv(channels * OFFSETS, channels, groups)

    def forward(self, feature: Tensor, picture: Tensor, motion: Tensor) -> Tensor:
        """`feature` (N, C, H, W) and `picture` (N, 3, H, W), of which `motion` is known."""
        seen = torch.cat((warp(feature, motion), warp(picture, motion), motion), dim=1)
        coarse = self.conv_offset(seen).float()
        steering = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        first, second, gates = steering.chunk(3, 1)
        beside = FARTHEST * torch.tanh(torch.cat((first, second), dim=1))
        offsets = beside + motion.repeat(1, self.moved.groups * OFFSETS, 1, 1)
        return self.fusion(self.moved(feature, offsets, torch.sigmoid(gates)))


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Structure, what half the size can show of `x`, and detail, the rest; even sides."""
    half = F.avg_pool2d(x, 2)
    structure = F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)
    return structure, x - structure
