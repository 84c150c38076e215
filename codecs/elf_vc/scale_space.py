"""Scale-space warping (Agustsson et al., CVPR 2020): where motion is uncertain, blur.

A picture and five blurred versions of it are slices of a volume, and a flow of three channels
says for each pixel where in the volume to look: how far to the right, how far down, how deep.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vcodecs.motion import warp

SIGMA = 1.5
BLURRED = 5
"""Slices beside the sharp one; each is the one before at half its size, blurred once more."""


def blur(x: Tensor) -> Tensor:
    """A Gaussian over rows and columns, the border repeated; (N, C, H, W)."""
    reach = math.ceil(3 * SIGMA)
    channels = x.shape[1]
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weight = torch.exp(-0.5 * (places / SIGMA) ** 2)
    weight = (weight / weight.sum()).repeat(channels, 1, 1, 1)
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = F.conv2d(x, weight, groups=channels)
    return F.conv2d(x, weight.transpose(2, 3), groups=channels)


def volume(picture: Tensor) -> list[Tensor]:
    """Slices (N, C, H, W), the sharp one first; effective sigmas of about 1.5, 3, 6, 12, 24."""
    x = blur(picture)
    slices = [picture, x]
    for number in range(1, BLURRED):
        x = blur(F.avg_pool2d(x, 2))
        full = x
        for _ in range(number):
            full = F.interpolate(full, scale_factor=2, mode="bilinear", align_corners=False)
        slices.append(full)
    return slices


def scale_space_warp(picture: Tensor, displacement: Tensor, depth: Tensor) -> Tensor:
    """Fetch `picture` (N, C, H, W) at position + `displacement` (N, 2, H, W) in pixels, blurred.

    `depth` (N, 1, H, W), 0 (sharp) to 5, is the slice. Trilinear, the border repeated: all slices
    moved alike and mixed by their distance, which every runtime can do.
    """
    slices = volume(picture.float())
    moved = warp(torch.cat(slices, dim=1), displacement).chunk(len(slices), 1)
    depth = depth.float()
    weighted = [
        part * (1 - (depth - number).abs()).clamp(min=0) for number, part in enumerate(moved)
    ]
    return torch.stack(weighted).sum(0)
