"""What a deformable convolution costs, for torch's counter, which does not know torchvision's.

As everywhere, a multiply-accumulate is two operations. Counted are the matrix product, as that of
a plain convolution, and the fetching of its inputs: each is a weighted sum of four neighbours, and
one product more where there is a modulation mask. Coordinates and weights are not counted.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision  # noqa: F401 - importing it is what defines the operator

CORNERS = 4


def deform_conv2d_flops(
    x: Sequence[int],
    weight: Sequence[int],
    offset: Sequence[int],
    *rest: Any,
    out_shape: Sequence[int],
    **_: Any,
) -> int:
    """Operations for input, weight and offset of these shapes; the last of `rest` is use_mask."""
    batch, channels = x[:2]
    outputs, per_group, *kernel = weight
    taps = kernel[0] * kernel[1]
    positions = batch * offset[2] * offset[3]
    product = outputs * per_group * taps
    fetching = channels * taps * (CORNERS + bool(rest[-1]))
    return 2 * positions * (product + fetching)


FORMULAS = {torch.ops.torchvision.deform_conv2d: deform_conv2d_flops}
"""For `FlopCounterMode(custom_mapping=...)`."""
