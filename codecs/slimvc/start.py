"""Initial weights of small presets: a transform codec whose latent is expected to be as the last.

As in `vcodecs.klt`, with blocks of 3x3 and then 2x2 twice. Directions come in the order of their
variance, so that the first channels of a width are the best that there are for it. (Our own;
docs/decisions.md.)
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcodecs.copier import ACTIVATED, keep_variance
from vcodecs.klt import PICTURE, cascade
from vcodecs.layers import GDN
from vcodecs.slimvc.layers import SlimConv, SlimDeconv

AnyConvolution = SlimConv | SlimDeconv | nn.Conv2d | nn.ConvTranspose2d

if TYPE_CHECKING:
    from vcodecs.slimvc.video import SlimVC

GAIN = 6.0
"""Gain of the latent: coefficients are quantised by 1/6."""
STRIDES = (3, 2, 2)
NORMALISATION = 1e-6
"""The diagonal of GDN's gamma: even large coefficients pass nearly unchanged."""
FAINT = 0.002


@torch.no_grad()
def start_as_transform(codec: "SlimVC") -> None:
    """Weights of a classical transform codec."""
    for layer in codec.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            keep_variance(layer, ACTIVATED)
        elif isinstance(layer, SlimConv | SlimDeconv):
            _keep_variance(layer)
        elif isinstance(layer, GDN):
            diagonal = NORMALISATION * torch.eye(len(layer.beta))
            layer.gamma.copy_(layer.gamma_reparam.init(diagonal))
    width = codec.sizes[-1].latent
    steps = cascade((width, width, width), STRIDES)
    _transform(codec, [step.basis for step in steps])
    scale = torch.ones(width)
    scale[: len(steps[-1].deviation)] = (GAIN * PICTURE * steps[-1].deviation).clamp_min(0.5)
    _start_parameters(codec.entropy_parameters, 0.2 * scale)
    _start_parameters(codec.picture_hyper_decoder, scale)


def _transform(codec: "SlimVC", bases: list[Tensor]) -> None:
    """Picture to latent and back."""
    gains = (1.0, 1.0, GAIN)
    for index, stride, basis, gain in zip((0, 2, 4), STRIDES, bases, gains, strict=True):
        down, up = _layer(codec.encoder, index), _layer(codec.decoder, 5 - index)
        middle = down.weight.shape[-1] // 2
        taps = slice(middle - (stride - 1) // 2, middle - (stride - 1) // 2 + stride)
        down.weight.mul_(FAINT)
        up.weight.mul_(FAINT)
        outputs, inputs = basis.shape[:2]
        down.weight[:outputs, :inputs, taps, taps] += gain * basis
        up.weight[:outputs, :inputs, taps, taps] += basis / gain
        for layer in (down, up):
            if layer.bias is not None:
                layer.bias.zero_()


def _keep_variance(layer: SlimConv | SlimDeconv) -> None:
    transposed = isinstance(layer, SlimDeconv)
    inputs, side = layer.weight.shape[0 if transposed else 1], layer.weight.shape[-1]
    taps = side**2 / layer.stride**2 if transposed else side**2
    nn.init.normal_(layer.weight, 0, ACTIVATED / (inputs * taps) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _start_parameters(network: nn.Sequential, scale: Tensor) -> None:
    """Means of zero, scales of a transform's coefficients."""
    last = _layer(network, len(network) - 1)
    last.weight.mul_(0.02)
    assert last.bias is not None
    means, scales = last.bias.chunk(2)
    means.zero_()
    scales.copy_(scale[: len(scales)])


def _layer(network: nn.Sequential, index: int) -> AnyConvolution:
    """Layer `index`, of one level or of several."""
    layer = network[index]
    assert isinstance(layer, AnyConvolution)
    return layer
