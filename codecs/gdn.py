"""Generalised divisive normalisation, and the lower bound that keeps its parameters positive.

Balle et al., "Density modeling of images using a generalized normalization transformation" (ICLR
2016). Parameters are stored and named as CompressAI and the official codecs store them: as square
roots, a little above zero, so that gradients do not vanish there.
"""

import sys
from abc import ABC

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OFFSET = 2.0**-18
"""Least stored value of a parameter that is zero."""
LEAST_BETA = 1e-6
GAMMA = 0.1
"""Diagonal of gamma at the start."""


class _Bounded(torch.autograd.Function):
    """max(x, bound), whose gradient also passes where it would raise what lies below."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: Tensor) -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        x, bound = ctx.saved_tensors
        return gradient * ((x >= bound) | (gradient < 0)), None


class Bound(nn.Module):
    """max(x, `least`); its gradient lets what fell below come back. Not in the state dict."""

    bound: Tensor

    def __init__(self, least: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(least)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _Bounded.apply(x, self.bound)


class Squared(nn.Module):
    """A parameter of at least `least` from what is stored of it."""

    pedestal: Tensor

    def __init__(self, least: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([OFFSET**2]), persistent=False)
        self.lower_bound = Bound((least + OFFSET**2) ** 0.5)

    def init(self, value: Tensor) -> Tensor:
        """The inverse: what is stored of a parameter."""
        return torch.sqrt(torch.max(value + self.pedestal, self.pedestal))

    def forward(self, stored: Tensor) -> Tensor:
        return self.lower_bound(stored) ** 2 - self.pedestal


class GDN(nn.Module):
    """y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times it (`inverse`); (N, C, H, W)."""

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam, self.gamma_reparam = Squared(LEAST_BETA), Squared()
        self.beta = nn.Parameter(self.beta_reparam.init(torch.ones(channels)))
        self.gamma = nn.Parameter(self.gamma_reparam.init(GAMMA * torch.eye(channels)))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        gamma = self.gamma_reparam(self.gamma).reshape(channels, channels, 1, 1)
        norm = F.conv2d(x**2, gamma, self.beta_reparam(self.beta))
        return x * (torch.sqrt(norm) if self.inverse else torch.rsqrt(norm))


class AnyGDN(ABC):
    """Type of every GDN with these attributes: ours, and CompressAI's in networks of users."""

    inverse: bool
    beta: nn.Parameter
    gamma: nn.Parameter
    beta_reparam: nn.Module
    gamma_reparam: nn.Module

    @classmethod
    def __subclasshook__(cls, kind: type) -> bool:
        return any(base in gdn_types() for base in kind.__mro__)


def gdn_types() -> tuple[type[nn.Module], ...]:
    """GDN, and CompressAI's where a program has imported it: whoever uses one has."""
    theirs = sys.modules.get("compressai.layers.gdn")
    return (GDN,) if theirs is None else (GDN, theirs.GDN)
