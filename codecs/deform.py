"""Deformable convolution: every tap fetches its input from where a learnt offset points."""

from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from vcodecs.layers import conv

GROUPS = 8
"""Consecutive, equal parts of the input's channels; each has offsets of its own."""
TAPS = 9


class DeformableConv(nn.Conv2d):
    """A 3x3 deformable convolution, not modulated (Dai et al., ICCV 2017), without a bias.

    `conv_offset` makes the offsets: by group, tap (row by row) and direction (down, right), in
    pixels of the input. It starts at zero, which is a plain convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=False)
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.conv_offset = conv(channels, GROUPS * TAPS * 2, 3)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        """`x` (N, C, H, W), fetched bilinearly, zero outside; `steering` has the same size."""
        # Coordinates need float32 also where the networks run in half precision.
        offsets = self.conv_offset(steering).float()
        return fetch_and_convolve(x.float(), offsets, self.weight.float())


def fetch_and_convolve(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """torchvision's operator; of groups there are as many as `offsets` has channels for."""
    return deform_conv2d(x, offsets, weight, padding=1)
