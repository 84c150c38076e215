"""Building blocks that the P-frame and the intra network share, with the official names.

Activations are LeakyReLU, 0.01 where nothing else is said; no block has a normalisation.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.layers import ResBlock, SubpelConv, conv


class ResidualBlock(nn.Module):
    """x + lrelu(conv2(lrelu(conv1(x))))."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, hidden, 3)
        self.conv2 = conv(hidden, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x))))


class DownBlock(nn.Module):
    """A residual block to half the size, its skip a strided 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, 2)
        self.conv2 = conv(outputs, outputs, 3)
        self.downsample = conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        main = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x))), 0.1)
        # The same as a strided 1x1 convolution, whose gradient in bfloat16 corrupts the heap on
        # CPUs where the input has 2 or 3 channels (torch 2.15).
        return main + self.downsample(F.avg_pool2d(x, 1, 2))


class UpBlock(nn.Module):
    """A residual block to twice the size, main path and skip by sub-pixel convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.subpel_conv = SubpelConv(inputs, outputs, kernel=1)
        self.conv = conv(outputs, outputs, 3)
        self.upsample = SubpelConv(inputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        main = F.leaky_relu(self.conv(F.leaky_relu(self.subpel_conv(x))), 0.1)
        return main + self.upsample(x)


class SqueezeExcitation(nn.Module):
    """Every channel times a gate in (0, 1), made from the means of all (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class GatedBlock(nn.Module):
    """Two convolutions and a squeeze-excitation beside a 1x1 skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up_dim = conv(inputs, outputs, 1)
        self.conv = nn.Sequential(
            conv(inputs, outputs, 3),
            nn.LeakyReLU(),
            conv(outputs, outputs, 3),
            SqueezeExcitation(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.up_dim(x)


class UNet(nn.Module):
    """Three scales, `widths` channels at full, half and quarter size; sides by 4.

    `block(inputs, outputs)` changes the width, `refine(channels)` works at the smallest scale.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: tuple[int, int, int],
        block: Callable[[int, int], nn.Module] = GatedBlock,
        refine: Callable[[int], nn.Module] = ResBlock,
    ) -> None:
        super().__init__()
        full, half, quarter = widths
        self.conv1 = block(inputs, full)
        self.conv2 = block(full, half)
        self.conv3 = block(half, quarter)
        self.context_refine = nn.Sequential(*(refine(quarter) for _ in range(4)))
        self.up3 = SubpelConv(quarter, half, kernel=1)
        self.up_conv3 = block(2 * half, half)
        self.up2 = SubpelConv(half, full, kernel=1)
        self.up_conv2 = block(2 * full, outputs)

    def forward(self, x: Tensor) -> Tensor:
        full = self.conv1(x)
        half = self.conv2(F.max_pool2d(full, 2))
        x = self.context_refine(self.conv3(F.max_pool2d(half, 2)))
        x = self.up_conv3(torch.cat((half, self.up3(x)), dim=1))
        return self.up_conv2(torch.cat((full, self.up2(x)), dim=1))


def analysis(inputs: int, width: int, latent: int) -> nn.Sequential:
    """To the latent, 1/16 of the size."""
    layers: list[nn.Module] = []
    for before in (inputs, width, width):
        layers += [DownBlock(before, width), ResidualBlock(width, width)]
    return nn.Sequential(*layers, conv(width, latent, 3, 2))


def synthesis(latent: int, width: int, outputs: int) -> nn.Sequential:
    """From the latent to 16 times its size."""
    layers: list[nn.Module] = []
    for before in (latent, width, width):
        layers += [ResidualBlock(before, width), UpBlock(before, width)]
    last = ResidualBlock(width, width), SubpelConv(width, outputs, kernel=1)
    return nn.Sequential(*layers, *last)


def hyper_encoder(latent: int, hyper: int) -> nn.Sequential:
    """Latent to hyper latent, 1/4 of the size."""
    strides = (1, 1, 2, 1, 2)
    widths = (latent, *[hyper] * 4)
    convs = [conv(width, hyper, 3, stride) for width, stride in zip(widths, strides, strict=True)]
    return activated(*convs)


def hyper_decoder(hyper: int, width: int, latent: int) -> nn.Sequential:
    """Hyper latent to a prior of twice the latent's channels, 4 times the size."""
    wide = width * 3 // 2
    return activated(
        conv(hyper, width, 3),
        SubpelConv(width, width, kernel=1),
        conv(width, wide, 3),
        SubpelConv(wide, wide, kernel=1),
        conv(wide, 2 * latent, 3),
    )


def activated(*layers: nn.Module, slope: float = 0.01) -> nn.Sequential:
    """These layers with a LeakyReLU between each two."""
    between: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        between += [nn.LeakyReLU(slope), layer]
    return nn.Sequential(*between)
