"""The few layers of CompressAI in use, for Pythons that CompressAI cannot be installed on.

CompressAI 1.2 asks for numpy 1, which has no wheel for Python 3.13. These have the names, the
arguments and the state of CompressAI's, and equal them to the bit (tests/test_standins.py); where
CompressAI is installed, its own are used (`vcodecs._compressai`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OFFSET = 2.0**-18
"""Least stored value of a parameter that is zero: at zero gradients would vanish."""


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


class LowerBound(nn.Module):
    """max(x, `bound`); its gradient lets what fell below come back."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([float(bound)]))

    def forward(self, x: Tensor) -> Tensor:
        return _Bounded.apply(x, self.bound)


class NonNegative(nn.Module):
    """A parameter of at least `minimum`, stored as a square root a little above zero."""

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([OFFSET**2]))
        self.lower_bound = LowerBound((minimum + OFFSET**2) ** 0.5)

    def init(self, value: Tensor) -> Tensor:
        """The inverse: what is stored of a parameter."""
        return torch.sqrt(torch.max(value + self.pedestal, self.pedestal))

    def forward(self, stored: Tensor) -> Tensor:
        return self.lower_bound(stored) ** 2 - self.pedestal


class GDN(nn.Module):
    """y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times it (`inverse`); (N, C, H, W).

    Balle et al., "Density modeling of images using a generalized normalization transformation"
    (ICLR 2016), equation 1.
    """

    def __init__(self, in_channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam, self.gamma_reparam = NonNegative(1e-6), NonNegative()
        self.beta = nn.Parameter(self.beta_reparam.init(torch.ones(in_channels)))
        self.gamma = nn.Parameter(self.gamma_reparam.init(0.1 * torch.eye(in_channels)))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        gamma = self.gamma_reparam(self.gamma).reshape(channels, channels, 1, 1)
        norm = F.conv2d(x**2, gamma, self.beta_reparam(self.beta))
        return x * (torch.sqrt(norm) if self.inverse else torch.rsqrt(norm))


class MaskedConv2d(nn.Conv2d):
    """PixelCNN convolution of mask type A: its weights see only what lies above or left."""

    mask: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int, mask_type: str
    ) -> None:
        if mask_type != "A":
            raise ValueError(f"mask type {mask_type!r}: only A is known")
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        mask, middle = torch.ones_like(self.weight.data), kernel_size // 2
        mask[:, :, middle, middle:] = 0
        mask[:, :, middle + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def quantize_ste(x: Tensor) -> Tensor:
    """Nearest integers; the gradient passes straight through."""
    return x + (torch.round(x) - x).detach()
