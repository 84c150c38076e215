"""The parts of DCVC-SDD that are networks of their own: motion coder, contextual coder, priors.

Rate factors act inside the transforms, at half the frame's size: encoder and decoder multiply a
feature there. They are tensors (1 or N, C, 1, 1).
"""

from functools import partial

import torch
from torch import Tensor, nn

from vcodecs.dcvc_hem.blocks import DownBlock, UNet, UpBlock, activated
from vcodecs.dcvc_hem.networks import BottleneckBlock, Contexts
from vcodecs.dcvc_sdd.blocks import DepthConvBlock
from vcodecs.dcvc_sdd.presets import Widths
from vcodecs.layers import ResBlock, SubpelConv, conv, in_a_row


class MotionEncoder(nn.Module):
    """Motion of both parts, and the motion feature of the frame before, to the motion latent."""

    def __init__(self, w: Widths) -> None:
        super().__init__()
        a = w.motion
        self.enc_1 = nn.Sequential(DownBlock(4, a), _blocks(w))
        self.enc_2 = DownBlock(a, a)
        self.adaptor_0 = DepthConvBlock(a, a, w.wide)
        self.adaptor_1 = DepthConvBlock(2 * a, a, w.wide)
        self.enc_3 = nn.Sequential(DownBlock(a, a), _blocks(w), conv(a, w.motion_latent, 3, 2))

    def forward(self, motion: Tensor, before: Tensor | None, factor: Tensor) -> Tensor:
        x = self.enc_2(self.enc_1(motion) * factor)
        if before is None:
            return self.enc_3(self.adaptor_0(x))
        return self.enc_3(self.adaptor_1(torch.cat((x, before), dim=1)))


class MotionDecoder(nn.Module):
    """Motion latent to the motion of both parts and the feature (1/4) that is kept."""

    def __init__(self, w: Widths) -> None:
        super().__init__()
        a = w.motion
        self.dec_1 = nn.Sequential(
            _blocks(w, w.motion_latent),
            UpBlock(a, a),
            _blocks(w),
            UpBlock(a, a),
            _blocks(w),
        )
        self.dec_2 = UpBlock(a, a)
        self.dec_3 = _blocks(w)
        self.out_s = SubpelConv(a, 2, kernel=1)
        self.out_d = SubpelConv(a, 2, kernel=1)

    def forward(self, latent: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = self.dec_1(latent)
        x = self.dec_3(self.dec_2(kept) * factor)
        return self.out_s(x).float(), self.out_d(x).float(), kept


class ContextualEncoder(nn.Module):
    """Frame and contexts to the latent, 1/16 of the size."""

    def __init__(self, w: Widths) -> None:
        super().__init__()
        (full, half, quarter), (e2, e4, e8) = w.contexts, w.contextual
        k2, k4, k8 = w.contextual_depth
        self.conv1 = conv(full + 3, e2, 3, 2)
        self.res1 = in_a_row(k2, lambda: BottleneckBlock(e2 + half))
        self.conv2 = conv(e2 + half, e4, 3, 2)
        self.res2 = in_a_row(k4, lambda: BottleneckBlock(e4 + quarter))
        self.conv3 = conv(e4 + quarter, e8, 3, 2)
        self.res3 = nn.Sequential(*(ResBlock(e8, 0.01) for _ in range(k8)))
        self.conv4 = conv(e8, w.latent, 3, 2)

    def forward(self, frame: Tensor, contexts: Contexts, factor: Tensor) -> Tensor:
        full, half, quarter = contexts
        x = self.conv1(torch.cat((frame, full), dim=1))
        x = self.conv2(self.res1(torch.cat((x, half), dim=1)) * factor)
        x = self.conv3(self.res2(torch.cat((x, quarter), dim=1)))
        return self.conv4(self.res3(x))


class ContextualDecoder(nn.Module):
    """Latent and the smaller contexts to a feature of full size."""

    def __init__(self, w: Widths) -> None:
        super().__init__()
        (_, half, quarter), (e2, e4, e8) = w.contexts, w.contextual
        k2, k4, k8 = w.contextual_depth
        self.up1 = SubpelConv(w.latent, e8)
        self.res0 = nn.Sequential(*(ResBlock(e8, 0.01) for _ in range(k8)))
        self.up2 = SubpelConv(e8, e4)
        self.res1 = in_a_row(k4, lambda: BottleneckBlock(e4 + quarter))
        self.up3 = SubpelConv(e4 + quarter, e2)
        self.res2 = in_a_row(k2, lambda: BottleneckBlock(e2 + half))
        self.up4 = SubpelConv(e2 + half, w.decoded)

    def forward(self, latent: Tensor, half: Tensor, quarter: Tensor, factor: Tensor) -> Tensor:
        x = self.up2(self.res0(self.up1(latent)))
        x = self.up3(self.res1(torch.cat((x, quarter), dim=1))) * factor
        return self.up4(self.res2(torch.cat((x, half), dim=1)))


def unet(w: Widths) -> UNet:
    """Refines the feature at three scales; every block of it is a depthwise one."""
    block = partial(DepthConvBlock, wide=w.wide)
    return UNet(w.feature, w.feature, w.unet, block, lambda width: block(width, width))


def hyper_decoder(channels: int) -> nn.Sequential:
    """Hyper latent to 4 times its size, all of one width."""
    return activated(
        conv(channels, channels, 3),
        SubpelConv(channels, channels, kernel=1),
        conv(channels, channels, 3),
        SubpelConv(channels, channels, kernel=1),
        conv(channels, channels, 3),
    )


def spatial_prior(channels: int, wide: int) -> nn.Sequential:
    """The common part of steps 2 to 4: scales and means of a latent of so many channels."""
    return nn.Sequential(
        DepthConvBlock(3 * channels, 3 * channels, wide),
        DepthConvBlock(3 * channels, 3 * channels, wide),
        DepthConvBlock(3 * channels, 2 * channels, wide),
    )


def _blocks(w: Widths, inputs: int | None = None) -> nn.Module:
    """The motion coder's blocks in a row, behind one that changes the width where it differs."""
    blocks = in_a_row(w.motion_depth, lambda: DepthConvBlock(w.motion, w.motion, w.wide))
    if inputs in (None, w.motion):
        return blocks
    return nn.Sequential(DepthConvBlock(inputs, w.motion, w.wide), blocks)
