"""Rounding and the estimated bits of latents."""

import torch
from torch import Tensor, nn
from torch.distributions import Laplace
from torch.nn import functional as F

from vcodecs._compressai import LowerBound, quantize_ste

SMALLEST_SCALE = 1e-5
LIKELIHOOD_FLOOR = 1e-5
"""Added to every likelihood by the official estimate: no symbol costs more than 16.61 bits."""


def rounded(x: Tensor) -> Tensor:
    """Nearest integers; the gradient passes straight through."""
    return quantize_ste(x)


def noisy(x: Tensor) -> Tensor:
    """`x` plus uniform noise in [-0.5, 0.5): the differentiable stand-in for rounding."""
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


def information(likelihood: Tensor) -> Tensor:
    """Bits (N,) of the symbols with these likelihoods (N, C, H, W)."""
    bits = torch.clamp(-torch.log2(likelihood + LIKELIHOOD_FLOOR), 0, 50)
    return bits.flatten(1).sum(1)


class LaplaceBits(nn.Module):
    """Bits of a latent under a Laplace distribution with predicted mean and scale.

    In eval mode the symbols are round(latent - mean), in training the difference plus noise.
    """

    def __init__(self) -> None:
        super().__init__()
        # Its gradient lets a scale that fell below the bound come back, unlike a clamp's.
        self.scale_bound = LowerBound(SMALLEST_SCALE)
        self.scale_bound._non_persistent_buffers_set.add("bound")

    def forward(self, latent: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """(N,) bits of `latent` (N, C, H, W); `scale` is floored at 1e-5."""
        latent, mean, scale = latent.float(), mean.float(), scale.float()
        difference = latent - mean
        symbols = noisy(difference) if self.training else torch.round(difference)
        scale = self.scale_bound(scale).clamp(max=1e10)
        laplace = Laplace(torch.zeros_like(scale), scale, validate_args=False)
        return information(laplace.cdf(symbols + 0.5) - laplace.cdf(symbols - 0.5))


class CdfStage(nn.Module):
    """One link of the factorised CDF chain, a monotone function of each channel."""

    def __init__(self, channels: int, last: bool = False) -> None:
        super().__init__()
        shape = (1, channels, 1, 1)
        self.h = nn.Parameter(torch.randn(shape) * 0.01)
        self.b = nn.Parameter(torch.randn(shape) * 0.01)
        self.a = None if last else nn.Parameter(torch.randn(shape) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = x * F.softplus(self.h) + self.b
        return torch.sigmoid(x) if self.a is None else x + torch.tanh(x) * torch.tanh(self.a)


class BitEstimator(nn.Module):
    """Factorised prior of the hyper latents: a CDF by channel (Balle et al., ICLR 2018, 6.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.f1 = CdfStage(channels)
        self.f2 = CdfStage(channels)
        self.f3 = CdfStage(channels)
        self.f4 = CdfStage(channels, last=True)

    def cdf(self, x: Tensor) -> Tensor:
        """Cumulative probability (0, 1) at `x` (N, C, H, W)."""
        return self.f4(self.f3(self.f2(self.f1(x))))

    def forward(self, latent: Tensor) -> Tensor:
        """(N,) bits of integer values (eval) or values with noise (training)."""
        latent = latent.float()
        return information(self.cdf(latent + 0.5) - self.cdf(latent - 0.5))
