"""Which rate every clip of a training step is coded at, and what its bits then weigh."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tradeoff:
    """The lambda of lambda * MSE + bpp at a codec's rate points (as `VideoCodec.rates()` has them).

    A codec of one lambda has the single point None.
    """

    points: tuple[float | None, ...]
    lagrangians: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.points) != len(self.lagrangians):
            raise ValueError(f"{len(self.lagrangians)} lambdas for {len(self.points)} rate points")

    def draw(self, count: int, device: torch.device | str = "cpu") -> tuple[Tensor | None, Tensor]:
        """Rates, and the lambdas that belong to them, of `count` clips: (N,) each.

        Rates are uniform between the first and the last point; None for a codec of one lambda.
        """
        points = [point for point in self.points if point is not None]
        if len(points) < 2:
            return None, torch.full((count,), self.lagrangians[0], device=device)
        low, high = points[0], points[-1]
        # Drawn on the CPU: the same on every device.
        rates = (low + (high - low) * torch.rand(count)).to(device)
        return rates, interpolated(points, self.lagrangians, rates)


def interpolated(points: Sequence[float], lagrangians: Sequence[float], rates: Tensor) -> Tensor:
    """Lambdas (N,) of `rates` (N,), log-linear between the rate points."""
    at = torch.tensor(points, dtype=rates.dtype, device=rates.device)
    logs = torch.tensor([math.log(x) for x in lagrangians], dtype=rates.dtype, device=rates.device)
    lower = (torch.searchsorted(at, rates, right=True) - 1).clamp(0, len(points) - 2)
    part = (rates - at[lower]) / (at[lower + 1] - at[lower])
    return torch.lerp(logs[lower], logs[lower + 1], part).exp()
