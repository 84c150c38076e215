"""Layers that run with the first of their channels, and normalisations that are switched.

A layer's channels come in parts, each of which is slimmed by itself: what reads two latents side by
side reads the first channels of both. `Slimmable` layers know the widths of all parts at all
levels; at which level they run is set from outside (`select`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.entropy import BitEstimator
from vcodecs.layers import GDN, conv, deconv

Parts = tuple[int, ...]
"""Channels of the parts of a layer's inputs or outputs."""


class Slimmable(nn.Module):
    """The common part: `inputs` and `outputs` by level, the last level the widest."""

    def __init__(self, inputs: Sequence[Parts], outputs: Sequence[Parts]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.level = tuple(inputs), tuple(outputs), len(inputs) - 1

    def rows(self, level: int, sides: Sequence[Parts]) -> Tensor:
        """Which channels of the widest layer's a level has, in their order."""
        starts, start = [], 0
        for widest in sides[-1]:
            starts.append(start)
            start += widest
        parts = zip(starts, sides[level], strict=True)
        return torch.cat([torch.arange(first, first + count) for first, count in parts])

    def taken(self, x: Tensor, dim: int, sides: Sequence[Parts], level: int) -> Tensor:
        """The channels of a level out of a tensor of the widest layer."""
        if sides[level] == sides[-1]:
            return x
        if len(sides[level]) == 1:
            return x.narrow(dim, 0, sides[level][0])
        return x.index_select(dim, self.rows(level, sides).to(x.device))


class SlimConv(Slimmable):
    """A convolution; weight (outputs, inputs, k, k) of the widest level."""

    def __init__(
        self,
        inputs: Sequence[Parts],
        outputs: Sequence[Parts],
        kernel: int,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs)
        widest = conv(sum(inputs[-1]), sum(outputs[-1]), kernel, stride)
        self.weight, self.stride, self.padding = widest.weight, stride, kernel // 2
        self.bias = widest.bias if bias else None

    def at(self, level: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a level."""
        weight = self.taken(self.weight, 0, self.outputs, level)
        weight = self.taken(weight, 1, self.inputs, level)
        bias = None if self.bias is None else self.taken(self.bias, 0, self.outputs, level)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, *self.at(self.level), self.stride, self.padding)


class SlimDeconv(Slimmable):
    """A transposed convolution; weight (inputs, outputs, k, k) of the widest level."""

    def __init__(
        self, inputs: Sequence[Parts], outputs: Sequence[Parts], kernel: int, stride: int
    ) -> None:
        super().__init__(inputs, outputs)
        widest = deconv(sum(inputs[-1]), sum(outputs[-1]), kernel, stride)
        self.weight, self.bias = widest.weight, widest.bias
        self.stride, self.padding = stride, kernel // 2

    def at(self, level: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a level."""
        weight = self.taken(self.weight, 1, self.outputs, level)
        weight = self.taken(weight, 0, self.inputs, level)
        bias = None if self.bias is None else self.taken(self.bias, 0, self.outputs, level)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.at(self.level)
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.stride - 1)


class Switched(nn.Module):
    """A module for each level, of which one runs: what levels do not share."""

    def __init__(self, each: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each, self.level = nn.ModuleList(each), len(each) - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.each[self.level](x)


class Maker:
    """Makes layers for these levels: slimmable ones, or plain ones where there is one level."""

    def __init__(self, count: int) -> None:
        self.count = count

    def conv(
        self,
        inputs: Sequence[Parts],
        outputs: Sequence[Parts],
        kernel: int,
        stride: int = 1,
        bias: bool = True,
    ) -> nn.Module:
        """A convolution with "same" padding."""
        if self.count > 1:
            return SlimConv(inputs, outputs, kernel, stride, bias)
        sides = sum(inputs[0]), sum(outputs[0])
        return nn.Conv2d(*sides, kernel, stride, padding=kernel // 2, bias=bias)

    def deconv(
        self, inputs: Sequence[Parts], outputs: Sequence[Parts], kernel: int, stride: int
    ) -> nn.Module:
        """A transposed convolution to `stride` times the size."""
        if self.count > 1:
            return SlimDeconv(inputs, outputs, kernel, stride)
        return deconv(sum(inputs[0]), sum(outputs[0]), kernel, stride)

    def gdn(self, channels: Sequence[Parts], inverse: bool = False) -> nn.Module:
        """A normalisation, one for each level."""
        return self._switched([GDN(sum(parts), inverse) for parts in channels])

    def prior(self, channels: Sequence[Parts]) -> Any:
        """The factorised prior of a hyper latent, one for each level."""
        return self._switched([BitEstimator(sum(parts)) for parts in channels])

    def _switched(self, each: Sequence[nn.Module]) -> nn.Module:
        return Switched(each) if self.count > 1 else each[0]


def select(network: nn.Module, level: int) -> None:
    """Let all slimmable layers inside run at this level from now on."""
    for layer in network.modules():
        if isinstance(layer, Slimmable | Switched):
            layer.level = level


@torch.no_grad()
def extract(source: nn.Module, target: nn.Module, level: int) -> None:
    """Copy a level's weights into `target`, the same network with plain layers of its widths."""
    slim = {name: layer for name, layer in source.named_modules() if name}
    for name, layer in target.named_modules():
        theirs = slim.get(name)
        if isinstance(theirs, SlimConv | SlimDeconv):
            weight, bias = theirs.at(level)
            assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
            layer.weight.copy_(weight)
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        elif isinstance(theirs, Switched):
            layer.load_state_dict(theirs.each[level].state_dict())
