"""The networks of SlimVC, each at all its widths or at one.

`sizes` are those of the levels, the widest last. Grids: latent 1/12 of the frame's sides, hyper
latent 1/48.
"""

from collections.abc import Callable, Sequence

from torch import nn

from vcodecs.slimvc.layers import Maker, Parts
from vcodecs.slimvc.presets import Sizes

KERNEL, FIRST = 5, 9
"""Kernels of the transforms: of most layers, and beside the picture."""
STRIDE = 12
"""Strides down to the latent's grid: 3, 2 and 2."""


def encoder(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """Picture to latent; a normalisation is behind the last layer too, which has no bias."""
    latent = _latents(sizes)
    picture = [(3,) for _ in sizes]
    return nn.Sequential(
        make.conv(picture, latent, FIRST, 3),
        make.gdn(latent),
        make.conv(latent, latent, KERNEL, 2),
        make.gdn(latent),
        make.conv(latent, latent, KERNEL, 2, bias=False),
        make.gdn(latent),
    )


def decoder(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """Latent to picture."""
    latent = _latents(sizes)
    picture = [(3,) for _ in sizes]
    return nn.Sequential(
        make.gdn(latent, inverse=True),
        make.deconv(latent, latent, KERNEL, 2),
        make.gdn(latent, inverse=True),
        make.deconv(latent, latent, KERNEL, 2),
        make.gdn(latent, inverse=True),
        make.deconv(latent, picture, FIRST, 3),
    )


def hyper_encoder(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """This latent and the last one to the hyper latent."""
    hyper = _each(sizes, lambda s: (s.hyper,))
    return nn.Sequential(
        make.conv(_each(sizes, lambda s: (s.latent, s.latent)), hyper, 3),
        nn.LeakyReLU(),
        make.conv(hyper, hyper, KERNEL, 2),
        nn.LeakyReLU(),
        make.conv(hyper, _each(sizes, lambda s: (s.hyper_latent,)), KERNEL, 2),
    )


def hyper_decoder(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """Hyper latent to what is expected because of it."""
    hyper = _each(sizes, lambda s: (s.hyper,))
    return nn.Sequential(
        make.deconv(_each(sizes, lambda s: (s.hyper_latent,)), hyper, KERNEL, 2),
        nn.LeakyReLU(),
        make.deconv(hyper, hyper, KERNEL, 2),
        nn.LeakyReLU(),
        make.conv(hyper, _each(sizes, lambda s: (s.prior,)), 3),
    )


def temporal_prior(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """The last latent to what is expected because of it."""
    first = _each(sizes, lambda s: (s.temporal[0],))
    second = _each(sizes, lambda s: (s.temporal[1],))
    return nn.Sequential(
        make.conv(_latents(sizes), first, KERNEL),
        nn.LeakyReLU(),
        make.conv(first, second, KERNEL),
        nn.LeakyReLU(),
        make.conv(second, _each(sizes, lambda s: (s.prior,)), KERNEL),
    )


def entropy_parameters(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """Both expectations, the temporal one first, to means and scales of the latent's residual."""
    first = _each(sizes, lambda s: (s.parameters[0],))
    second = _each(sizes, lambda s: (s.parameters[1],))
    return nn.Sequential(
        make.conv(_each(sizes, lambda s: (s.prior, s.prior)), first, 1),
        nn.LeakyReLU(),
        make.conv(first, second, 1),
        nn.LeakyReLU(),
        make.conv(second, _each(sizes, lambda s: (s.latent, s.latent)), 1),
    )


def picture_hyper_encoder(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """A latent to the hyper latent of a picture by itself: for training the transforms alone."""
    latent = _latents(sizes)
    return nn.Sequential(
        make.conv(latent, latent, 3),
        nn.ReLU(),
        make.conv(latent, latent, KERNEL, 2),
        nn.ReLU(),
        make.conv(latent, latent, KERNEL, 2),
    )


def picture_hyper_decoder(make: Maker, sizes: Sequence[Sizes]) -> nn.Sequential:
    """That hyper latent to means and scales."""
    latent = _latents(sizes)
    return nn.Sequential(
        make.deconv(latent, latent, KERNEL, 2),
        nn.ReLU(),
        make.deconv(latent, latent, KERNEL, 2),
        nn.ReLU(),
        make.conv(latent, _each(sizes, lambda s: (s.latent, s.latent)), 3),
    )


def _each(sizes: Sequence[Sizes], parts: Callable[[Sizes], Parts]) -> list[Parts]:
    return [parts(size) for size in sizes]


def _latents(sizes: Sequence[Sizes]) -> list[Parts]:
    return _each(sizes, lambda s: (s.latent,))
