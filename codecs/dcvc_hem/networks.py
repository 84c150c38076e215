"""The parts of the P-frame network that work at several scales."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.layers import ResBlock, SubpelConv, conv, in_a_row

Contexts = tuple[Tensor, Tensor, Tensor]
"""Three scales (N, C, H / 2^i, W / 2^i)."""
Widths = tuple[int, int, int]
"""Channels of the three."""


class BottleneckBlock(nn.Module):
    """x + act(conv2(act(conv1(act(x))))), half the channels inside, LeakyReLU 0.1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels // 2, 3)
        self.conv2 = conv(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.leaky_relu(self.conv1(F.leaky_relu(x, 0.1)), 0.1)
        return x + F.leaky_relu(self.conv2(inside), 0.1)


class FeatureExtractor(nn.Module):
    """Features at three scales of these `widths`, each made from the one before.

    `depth`: residual blocks in a row at the smallest scale.
    """

    def __init__(self, inputs: int, widths: Widths, depth: int = 1) -> None:
        super().__init__()
        full, half, quarter = widths
        self.conv1 = conv(inputs, full, 3)
        self.res_block1 = ResBlock(full, 0.01)
        self.conv2 = conv(full, half, 3, 2)
        self.res_block2 = ResBlock(half, 0.01)
        self.conv3 = conv(half, quarter, 3, 2)
        self.res_block3 = in_a_row(depth, lambda: ResBlock(quarter, 0.01))

    def forward(self, x: Tensor) -> Contexts:
        full = self.res_block1(self.conv1(x))
        half = self.res_block2(self.conv2(full))
        return full, half, self.res_block3(self.conv3(half))


class ContextFusion(nn.Module):
    """Contexts of these `widths` mixed from the smallest scale upwards (Sheng et al., TMM 2022).

    `depth` as in `FeatureExtractor`.
    """

    def __init__(self, widths: Widths, depth: int = 1) -> None:
        super().__init__()
        full, half, quarter = widths
        self.conv3_up = SubpelConv(quarter, half)
        self.res_block3_up = ResBlock(half, 0.01)
        self.conv3_out = conv(quarter, quarter, 3)
        self.res_block3_out = in_a_row(depth, lambda: ResBlock(quarter, 0.01))
        self.conv2_up = SubpelConv(2 * half, full)
        self.res_block2_up = ResBlock(full, 0.01)
        self.conv2_out = conv(2 * half, half, 3)
        self.res_block2_out = ResBlock(half, 0.01)
        self.conv1_out = conv(2 * full, full, 3)
        self.res_block1_out = ResBlock(full, 0.01)

    def forward(self, full: Tensor, half: Tensor, quarter: Tensor) -> Contexts:
        up = self.res_block3_up(self.conv3_up(quarter))
        quarter = quarter + self.res_block3_out(self.conv3_out(quarter))
        joined = torch.cat((up, half), dim=1)
        up = self.res_block2_up(self.conv2_up(joined))
        half = half + self.res_block2_out(self.conv2_out(joined))
        joined = torch.cat((up, full), dim=1)
        return full + self.res_block1_out(self.conv1_out(joined)), half, quarter


class ContextualEncoder(nn.Module):
    """Frame and contexts to the latent, 1/16 of the size."""

    def __init__(self, n: int, latent: int) -> None:
        super().__init__()
        self.conv1 = conv(n + 3, n, 3, 2)
        self.res1 = BottleneckBlock(2 * n)
        self.conv2 = conv(2 * n, n, 3, 2)
        self.res2 = BottleneckBlock(2 * n)
        self.conv3 = conv(2 * n, n, 3, 2)
        self.conv4 = conv(n, latent, 3, 2)

    def forward(self, frame: Tensor, contexts: Contexts) -> Tensor:
        full, half, quarter = contexts
        x = self.conv1(torch.cat((frame, full), dim=1))
        x = self.conv2(self.res1(torch.cat((x, half), dim=1)))
        x = self.conv3(self.res2(torch.cat((x, quarter), dim=1)))
        return self.conv4(x)


class ContextualDecoder(nn.Module):
    """Latent and the smaller contexts to a feature of full size."""

    def __init__(self, n: int, latent: int, decoded: int) -> None:
        super().__init__()
        self.up1 = SubpelConv(latent, n)
        self.up2 = SubpelConv(n, n)
        self.res1 = BottleneckBlock(2 * n)
        self.up3 = SubpelConv(2 * n, n)
        self.res2 = BottleneckBlock(2 * n)
        self.up4 = SubpelConv(2 * n, decoded)

    def forward(self, latent: Tensor, half: Tensor, quarter: Tensor) -> Tensor:
        x = self.up2(self.up1(latent))
        x = self.up3(self.res1(torch.cat((x, quarter), dim=1)))
        return self.up4(self.res2(torch.cat((x, half), dim=1)))


class Reconstruction(nn.Module):
    """Decoded feature and full-size context to the feature that is kept, and the picture."""

    def __init__(self, joined: int, feature: int, unet: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first_conv = conv(joined, feature, 3)
        self.unet_1 = unet()
        self.unet_2 = unet()
        self.recon_conv = conv(feature, 3, 3)

    def forward(self, decoded: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.first_conv(torch.cat((decoded, context), dim=1))
        feature = self.unet_2(self.unet_1(feature))
        return feature, self.recon_conv(feature)
