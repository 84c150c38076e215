"""The receiver of one width of SlimVC, as decoder graphs and as a program over them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lvc.program import Step
from vcodecs.contract import Coding, DecoderGraph, grapher
from vcodecs.entropy import BitEstimator
from vcodecs.layers import layer_of

if TYPE_CHECKING:
    from vcodecs.slimvc.video import SlimVC


def tensors(codec: "SlimVC") -> dict[str, tuple[int, int]]:
    """Every tensor that a graph reads: channels, and the stride of its rows and columns."""
    latent = layer_of(codec.decoder, 1, nn.ConvTranspose2d).in_channels
    hyper = layer_of(codec.hyper_decoder, 0, nn.ConvTranspose2d).in_channels
    prior = layer_of(codec.temporal_prior, -1, nn.Conv2d).out_channels
    return {
        "reference": (3, 1),
        "previous_latent": (latent, 12),
        "latent": (latent, 12),
        "latent_temporal": (prior, 12),
        "latent_hyper": (hyper, 48),
    }


def coding(codec: "SlimVC") -> Coding:
    """See `VideoCodec.coding`."""

    def analyse(
        stream: str, frame: Tensor, known: Mapping[str, Tensor], rate: float | None
    ) -> tuple[Tensor, Tensor]:
        latent = codec.encoder(frame)
        return latent, codec.hyper_encoder(torch.cat((latent, known["previous_latent"]), dim=1))

    prior = codec.hyper_prior
    assert isinstance(prior, BitEstimator)
    return Coding(
        steps=(
            Step("run", "temporal_prior", after_intra="temporal_prior_after_intra"),
            Step("hyper", "latent"),
            Step("run", "latent_parameters"),
            Step("relative", "latent", distribution="normal"),
            Step("run", "reconstruction"),
        ),
        priors={"latent": prior},
        analyse=analyse,
    )


def graphs(codec: "SlimVC", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """See `VideoCodec.decoder_graphs`."""
    graph = grapher(codec, height, width, tensors(codec))
    return (
        graph(
            "temporal_prior_after_intra",
            _behind_a_picture,
            ("reference",),
            ("latent_temporal", "previous_latent"),
            after_intra=True,
        ),
        graph(
            "temporal_prior",
            lambda codec, before: codec.temporal_prior(before),
            ("previous_latent",),
            ("latent_temporal",),
        ),
        graph(
            "latent_parameters",
            _around,
            ("latent_temporal", "latent_hyper", "previous_latent"),
            ("latent_mean", "latent_scale"),
        ),
        graph(
            "reconstruction",
            lambda codec, latent: codec.decoder(latent).clamp(0, 1),
            ("latent",),
            ("frame",),
        ),
    )


def _behind_a_picture(codec: "SlimVC", picture: Tensor) -> tuple[Tensor, Tensor]:
    before = codec.of_picture(picture)
    return codec.temporal_prior(before), before


def _around(
    codec: "SlimVC", temporal: Tensor, hyper: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and scale of the latent itself: what is sent is its residual to the last one."""
    mean, scale = codec.expected(temporal, hyper)
    return before + mean, scale
