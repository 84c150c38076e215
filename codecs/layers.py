"""Layers that several codecs share, with the official state-dict names."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs._compressai import GDN as CompressAIGDN
from vcodecs._compressai import LowerBound, MaskedConv2d

Layer = TypeVar("Layer", bound=nn.Module)


def layer_of(network: nn.Module, index: int, kind: type[Layer]) -> Layer:
    """Layer `index` of a Sequential or a ModuleList; a TypeError where it is not a `kind`."""
    layer = tuple(network.children())[index]
    if not isinstance(layer, kind):
        raise TypeError(f"layer {index} is a {type(layer).__name__}, not a {kind.__name__}")
    return layer


def bias_of(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The bias (C,) of a layer that has one."""
    if layer.bias is None:
        raise TypeError(f"{layer} has no bias")
    return layer.bias


class GDN(CompressAIGDN):
    """Generalised divisive normalisation with `beta` and `gamma` alone in the state dict.

    CompressAI keeps the constants of its reparametrisation as saved buffers; the official codecs
    do not, so here they are not persistent.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        with torch.device("cpu"):  # it computes with its constants, which lie there
            super().__init__(channels, inverse=inverse)
        self.to(torch.get_default_device())
        for module in self.modules():
            module._non_persistent_buffers_set.update(module._buffers)


class FoldedGDN(nn.Module):
    """GDN of constants: what `fold` makes of a trained one. Input and output (N, C, H, W)."""

    beta: Tensor
    gamma: Tensor

    def __init__(self, source: CompressAIGDN) -> None:
        super().__init__()
        channels = source.beta.numel()
        self.inverse = source.inverse
        self.register_buffer("beta", source.beta_reparam(source.beta).detach())
        gamma = source.gamma_reparam(source.gamma).detach()
        self.register_buffer("gamma", gamma.reshape(channels, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.sqrt(F.conv2d(x * x, self.gamma, self.beta))
        return x * norm if self.inverse else x / norm


class Bound(LowerBound):
    """max(x, `least`); its gradient lets what fell below come back. Not in the state dict."""

    def __init__(self, least: float) -> None:
        super().__init__(least)
        self.least = least
        self._non_persistent_buffers_set.add("bound")


class FoldedBound(nn.Module):
    """The same function without its gradient."""

    def __init__(self, source: Bound) -> None:
        super().__init__()
        self.least = source.least

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.least)


class MaskedConv(MaskedConv2d):
    """PixelCNN convolution of mask type A (5x5): sees only positions that are decoded already.

    CompressAI's forward overwrites the stored weight; this one multiplies on the way, so that a
    parametrised weight works as well and the stored one stays as it was loaded.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=5, padding=2, mask_type="A")

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def beside(layer: nn.Conv2d, patch: Tensor) -> Tensor:
    """A `MaskedConv` (folded or not) at single positions, (n, C, 1, 1), from what it sees there.

    `patch`: (n, C, 3, 5), two rows above and the position's own, the position in the middle.
    """
    weight = layer.weight * layer.mask if isinstance(layer, MaskedConv) else layer.weight
    # One matrix product for all positions; as n small pictures they would be n of them.
    return F.linear(patch.flatten(1), weight[:, :, :3].flatten(1), layer.bias)[..., None, None]


def in_one_row(
    function: Callable[..., tuple[Tensor, ...]], *positions: Tensor
) -> tuple[Tensor, ...]:
    """`function`, of 1x1 layers, on single positions (n, C, 1, 1): one product for all of them."""
    made = function(*(tensor.transpose(0, 2) for tensor in positions))
    return tuple(tensor.transpose(0, 2) for tensor in made)


class SubpelConv(nn.Sequential):
    """Sub-pixel convolution, x`factor`: a convolution to factor^2 times the channels, shuffled.

    A type of its own (with the keys of a plain Sequential), since output channel c is made by the
    convolution's channels c * factor^2 ... (c + 1) * factor^2 - 1 and they can only go together.
    """

    def __init__(self, inputs: int, outputs: int, factor: int = 2, kernel: int = 3) -> None:
        conv = nn.Conv2d(inputs, outputs * factor**2, kernel, padding=kernel // 2)
        super().__init__(conv, nn.PixelShuffle(factor))
        self.factor = factor

    @property
    def inner(self) -> nn.Conv2d:
        """The convolution before the shuffle."""
        return layer_of(self, 0, nn.Conv2d)

    @property
    def outputs(self) -> int:
        """Channels behind the shuffle."""
        return self.inner.out_channels // self.factor**2


class GroupedConv(nn.Conv2d):
    """A 1x1 convolution in groups: equal, consecutive parts of inputs and of outputs by themselves.

    A type of its own, since every group has to lose as many channels as every other one.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs, outputs, 1, groups=groups)


class ResBlock(nn.Module):
    """x + conv2(act(conv1(act(x)))), both 3x3; act is LeakyReLU of `slope`, at 0 ReLU."""

    def __init__(self, channels: int, slope: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.slope = slope
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(bias_of(conv))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self._activate(self.conv1(self._activate(x))))

    def _activate(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)


class ActivatedResBlock(nn.Module):
    """x + lrelu(conv(lrelu(conv(x)))) with slope 0.1: the second activation is inside the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def in_a_row(count: int, make: Callable[[], nn.Module]) -> nn.Module:
    """`count` layers, one behind the other; a single one keeps its own name in the state dict."""
    return make() if count == 1 else nn.Sequential(*(make() for _ in range(count)))


def has_values(network: nn.Module) -> bool:
    """Whether there are weights, and not just their shapes (torch's "meta" device)."""
    return not any(parameter.is_meta for parameter in network.parameters())


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with "same" padding; output sides are the input's over `stride`."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


def deconv(inputs: int, outputs: int, kernel: int, stride: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution; output sides are the input's times `stride`."""
    return nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, output_padding=stride - 1
    )


def fold(module: Layer) -> Layer:
    """A copy in eval mode whose GDN, masked convolutions and bounds are plain arithmetic.

    The same function with fewer operations: for export and timing, not for training.
    """
    folded = copy.deepcopy(module).requires_grad_(False)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, CompressAIGDN):
                setattr(parent, name, FoldedGDN(child))
            elif isinstance(child, MaskedConv):
                setattr(parent, name, _plain_conv(child))
            elif isinstance(child, Bound):
                setattr(parent, name, FoldedBound(child))
    return folded.eval()


def _plain_conv(masked: MaskedConv) -> nn.Conv2d:
    plain = nn.Conv2d(masked.in_channels, masked.out_channels, 5, padding=2)
    plain.to(masked.weight.device, masked.weight.dtype)
    plain.weight.data = masked.weight.data * masked.mask
    bias_of(plain).data = masked.bias.data
    return plain.requires_grad_(False)
