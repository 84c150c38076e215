"""MACs of a deformable convolution.

Counted are the matrix product, as that of a plain convolution, and the fetching of its inputs:
each is a weighted sum of four neighbours, and one product more where there is a modulation mask.
Coordinates and weights are not counted.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torchvision  # noqa: F401 - importing it is what defines the operator

CORNERS = 4


def deformable_macs(
    positions: int, inputs: int, weight: Sequence[int], masked: bool = False
) -> int:
    """MACs at so many output positions; `weight` is the shape (outputs, inputs a group, kernel)."""
    fetching = inputs * math.prod(weight[2:]) * (CORNERS + masked)
    return positions * (math.prod(weight) + fetching)


def fetching_share(outputs: int) -> float:
    """Fetching's part of a plain deformable convolution (one weight group)."""
    return CORNERS / (CORNERS + outputs)


def deform_conv2d_flops(
    x: Sequence[int],
    weight: Sequence[int],
    offset: Sequence[int],
    *rest: Any,
    out_shape: Sequence[int],
    **_: Any,
) -> int:
    """Operations, two a MAC, by the shapes; the last of `rest` is use_mask."""
    positions = x[0] * offset[2] * offset[3]
    return 2 * deformable_macs(positions, x[1], weight, bool(rest[-1]))


FORMULAS = {torch.ops.torchvision.deform_conv2d: deform_conv2d_flops}
"""For `FlopCounterMode(custom_mapping=...)`."""
