"""The networks of ELF-VC. Grids: state 1/4 of the frame's sides, latents 1/16, hyper latents 1/64.

Heavy encoders, light decoders; what they read or make of pictures is in cells of 4x4 pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.elf_vc.blocks import (
    CELL,
    LEVELS,
    SLOPE,
    DelayedMerge,
    TwoScales,
    down,
    to_pixels,
    up,
    with_level,
)
from vcodecs.elf_vc.presets import Widths
from vcodecs.layers import conv, deconv

PICTURE = 3 * CELL**2
"""Channels of a picture, or of a flow with its scale, in cells."""
DISPLACEMENT = 2 * CELL**2


class FlowPredictor(nn.Module):
    """The motion to expect: of the last two pictures and the last flow, without any bits."""

    def __init__(self, w: Widths) -> None:
        super().__init__()
        self.first = conv(3 * PICTURE + LEVELS, w.predictor, 3)
        self.blocks = nn.Sequential(*(TwoScales(w.predictor) for _ in range(w.predictor_depth)))
        self.head = conv(w.predictor, DISPLACEMENT, 3)

    def forward(self, known: Sequence[Tensor], level: Tensor) -> Tensor:
        """(N, 2, H, W) in pixels, (right, down)."""
        x = F.leaky_relu(self.first(with_level(known, level)), SLOPE)
        return to_pixels(self.head(self.blocks(x)))


class Encoder(nn.Module):
    """What the sender sees, at 1/4, to a latent."""

    def __init__(self, inputs: int, channels: int, latent: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            DelayedMerge(inputs + LEVELS, channels),
            down(channels),
            DelayedMerge(channels, channels),
            down(channels),
            DelayedMerge(channels, channels),
            conv(channels, latent, 3),
        )

    def forward(self, seen: Sequence[Tensor], level: Tensor) -> Tensor:
        return self.blocks(with_level(seen, level))


class Decoder(nn.Module):
    """A latent and the state to the next state, (N, state, H / 4, W / 4), and to `head` of it."""

    def __init__(self, latent: int, channels: int, state: int, head: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            DelayedMerge(latent + LEVELS, channels),
            up(channels),
            DelayedMerge(channels, channels),
            up(channels),
        )
        self.last = DelayedMerge(channels + state, channels, state)
        self.head = conv(state, head, 3)

    def forward(self, latent: Tensor, state: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The state for what follows, and what the head makes of it in pixels."""
        x = self.blocks(with_level((latent,), level))
        following = self.last(torch.cat((x, state), dim=1))
        return following, to_pixels(self.head(following))


def hyper_encoder(latent: int, hyper: int) -> nn.Sequential:
    """A latent to its hyper latent."""
    return nn.Sequential(
        conv(latent, hyper, 3),
        nn.LeakyReLU(SLOPE),
        conv(hyper, hyper, 5, 2),
        nn.LeakyReLU(SLOPE),
        conv(hyper, hyper, 5, 2),
    )


def hyper_decoder(hyper: int, latent: int) -> nn.Sequential:
    """A hyper latent to means and scales."""
    middle = hyper * 3 // 2
    return nn.Sequential(
        deconv(hyper, hyper, 5),
        nn.LeakyReLU(SLOPE),
        deconv(hyper, middle, 5),
        nn.LeakyReLU(SLOPE),
        conv(middle, 2 * latent, 3),
    )
