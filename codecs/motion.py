"""Optical flow and warping."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Fetch `x` (N, C, H, W) at position + `flow` (N, 2, H, W), in pixels, (right, down).

    Bilinear, the border repeated. The grid is built with arange, not linspace: an exported graph
    then follows the size of its input.
    """
    # Coordinates need float32 also where the networks run in half precision.
    x, flow = x.float(), flow.float()
    height, width = x.shape[-2:]
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    rows = torch.arange(height, device=x.device, dtype=x.dtype).unsqueeze(1)
    horizontal = (columns + flow[:, 0]) * (2 / (width - 1)) - 1
    vertical = (rows + flow[:, 1]) * (2 / (height - 1)) - 1
    grid = torch.stack((horizontal, vertical), dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


class MovedGroups(nn.Module):
    """Groups of channels, each warped to several places by motion of its own and then gated.

    A module without weights, so that what looks at a codec's layers sees where it is.
    """

    def __init__(self, groups: int, places: int) -> None:
        super().__init__()
        self.groups, self.places = groups, places

    def forward(self, x: Tensor, motion: Tensor, gates: Tensor) -> Tensor:
        """(N, `places` * C, H, W), ordered by place, group, channel, of `x` (N, C, H, W).

        `motion` (N, places * groups * 2, H, W), pairs of (right, down) in pixels, and `gates`
        (N, places * groups, H, W) have the same order.
        """
        count, channels, height, width = x.shape
        each = channels // self.groups
        repeated = x.unsqueeze(1).expand(-1, self.places, -1, -1, -1)
        moved = warp(
            repeated.reshape(-1, each, height, width), motion.reshape(-1, 2, height, width)
        )
        moved = moved.reshape(count, -1, each, height, width) * gates.unsqueeze(2)
        return moved.reshape(count, self.places * channels, height, width)


def upsample_flow(flow: Tensor) -> Tensor:
    """A flow at twice the size, its vectors twice as long."""
    return 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=False)


class FlowLevel(nn.Module):
    """One level of SpyNet: (current, warped reference, flow), 8 channels, to a flow update."""

    conv1: nn.Conv2d
    conv5: nn.Conv2d

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        sides = (8, *widths, 2)
        for i in range(5):
            layer = nn.Conv2d(sides[i], sides[i + 1], 7, padding=3)
            setattr(self, f"conv{i + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, 5):
            x = F.relu(getattr(self, f"conv{i}")(x))
        return self.conv5(x)


class SpyNet(nn.Module):
    """Four-level spatial pyramid flow (Ranjan and Black, CVPR 2017), no image normalisation."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 64, 32, 16)) -> None:
        super().__init__()
        self.moduleBasic = nn.ModuleList(FlowLevel(widths) for _ in range(4))

    def forward(
        self, current: Tensor, reference: Tensor, with_error: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Flow (N, 2, H, W) in pixels that fetches `current` from `reference`; sides by 16.

        `with_error`: also the summed squared errors of the coarser levels' own predictions.
        Trained by it, each level learns the motion that it can see; the error at full size alone
        has no slope towards motion that is larger than the texture.
        """
        currents, references = [current], [reference]
        for _ in range(3):
            currents.insert(0, F.avg_pool2d(currents[0], 2))
            references.insert(0, F.avg_pool2d(references[0], 2))
        flow = torch.zeros_like(F.avg_pool2d(currents[0], 2)[:, :2])
        errors = []
        for level, now, before in zip(self.moduleBasic, currents, references, strict=True):
            flow = upsample_flow(flow)
            flow = flow + level(torch.cat((now, warp(before, flow), flow), dim=1))
            if with_error:
                errors.append(F.mse_loss(warp(before, flow), now))
        return flow, torch.stack(errors[:-1]).sum() if with_error else None


def halved_flow(flow: Tensor) -> Tensor:
    """A flow at half the size, its vectors half as long."""
    height, width = flow.shape[-2:]
    size = height // 2, width // 2
    return F.interpolate(flow, size, mode="bilinear", align_corners=False) / 2
