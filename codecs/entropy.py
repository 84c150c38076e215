"""Rounding and the estimated bits of latents."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal
from torch.nn import functional as F

from vcodecs import noise
from vcodecs._compressai import quantize_ste
from vcodecs.layers import Bound

SMALLEST_SCALE = 1e-5
SMALLEST_DEVIATION = 0.11
LIKELIHOOD_FLOOR = 1e-5
"""Added to every likelihood by the official estimate: no symbol costs more than 16.61 bits."""


def rounded(x: Tensor) -> Tensor:
    """Nearest integers; the gradient passes straight through."""
    return quantize_ste(x)


def noisy(x: Tensor) -> Tensor:
    """`x` plus uniform noise in [-0.5, 0.5): the differentiable stand-in for rounding."""
    return x + noise.uniform(x, -0.5, 0.5)


def information(likelihood: Tensor, floor: float = LIKELIHOOD_FLOOR) -> Tensor:
    """Bits (N,) of the symbols with these likelihoods (N, C, H, W), 50 at most for each.

    `floor` is added to each of them.
    """
    # The difference of two rounded CDFs may be a hair below zero, where there is no logarithm.
    bits = torch.clamp(-torch.log2((likelihood + floor).clamp(min=0)), 0, 50)
    return bits.flatten(1).sum(1)


class ScaleBits(nn.Module, ABC):
    """Bits of symbols under a zero-mean distribution with predicted scales.

    Scales are floored at `smallest` by a bound whose gradient, unlike a clamp's, lets one that
    fell below come back.
    """

    smallest: float

    def __init__(self) -> None:
        super().__init__()
        self.scale_bound = Bound(self.smallest)

    @abstractmethod
    def cdf(self, symbols: Tensor, scale: Tensor) -> Tensor:
        """Cumulative probability at `symbols`."""

    def of_symbols(self, symbols: Tensor, scale: Tensor) -> Tensor:
        """(N,) bits of whole numbers, or of values with noise (N, C, H, W)."""
        symbols = symbols.float()
        scale = self.scale_bound(scale.float()).clamp(max=1e10)
        return information(self.cdf(symbols + 0.5, scale) - self.cdf(symbols - 0.5, scale))

    def forward(self, latent: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """(N,) bits of `latent` (N, C, H, W): the symbols are round(latent - mean) in eval mode,
        in training the difference plus noise."""
        difference = latent.float() - mean.float()
        symbols = noisy(difference) if self.training else torch.round(difference)
        return self.of_symbols(symbols, scale)


class LaplaceBits(ScaleBits):
    """Laplace, scales of at least 1e-5."""

    smallest = SMALLEST_SCALE

    def cdf(self, symbols: Tensor, scale: Tensor) -> Tensor:
        return Laplace(torch.zeros_like(scale), scale, validate_args=False).cdf(symbols)


class GaussianBits(ScaleBits):
    """Normal, standard deviations of at least 0.11."""

    smallest = SMALLEST_DEVIATION

    def cdf(self, symbols: Tensor, scale: Tensor) -> Tensor:
        return Normal(torch.zeros_like(scale), scale, validate_args=False).cdf(symbols)


class NormalBits(nn.Module):
    """Bits of plainly rounded latents under normal distributions around predicted means.

    Here the mean is not taken off before rounding, so it need be no whole number. No floor is
    added in eval mode: a symbol that float32 gives no probability costs 50 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale_bound = Bound(SMALLEST_SCALE)

    def forward(self, latent: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """(N,) bits of `latent` (N, C, H, W), rounded in eval mode, in training with noise."""
        latent = latent.float()
        symbols = noisy(latent) if self.training else torch.round(latent)
        deviation = self.scale_bound(deviation.float()).clamp(max=1e10)
        normal = Normal(mean.float(), deviation, validate_args=False)
        likelihood = normal.cdf(symbols + 0.5) - normal.cdf(symbols - 0.5)
        return information(likelihood, LIKELIHOOD_FLOOR if self.training else 0.0)


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
    """Factorised prior of the hyper latents: a CDF by channel (Balle et al., ICLR 2018, 6.1).

    Where not `floored`, the floor is added in training alone.
    """

    def __init__(self, channels: int, floored: bool = True) -> None:
        super().__init__()
        self.floored = floored
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
        floor = LIKELIHOOD_FLOOR if self.floored or self.training else 0.0
        return information(self.cdf(latent + 0.5) - self.cdf(latent - 0.5), floor)
