"""DCVC's receiver: its graphs, its tensors by name, and the program over them.

Latents are rounded around their means, which takes their order, that of wavefronts.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lvc.program import Step
from vcodecs.contract import Coding, DecoderGraph, WaveGraph, grapher, positions
from vcodecs.layers import beside, in_one_row, layer_of

if TYPE_CHECKING:
    from vcodecs.dcvc.video import DCVC


def tensors(codec: "DCVC") -> dict[str, tuple[int, int]]:
    """Every tensor that a graph reads: channels, and the stride of its rows and columns."""
    motion_prior, latent_prior = codec.mvpriorDecoder, codec.priorDecoder
    return {
        "reference": (3, 1),
        "context": (layer_of(codec.context_refine, 1, nn.Conv2d).out_channels, 1),
        "motion_latent": (codec.auto_regressive_mv.in_channels, 16),
        "motion_hyper": (layer_of(motion_prior, 0, nn.ConvTranspose2d).in_channels, 64),
        "motion_prior": (layer_of(motion_prior, 4, nn.ConvTranspose2d).out_channels, 16),
        "latent": (codec.auto_regressive.in_channels, 16),
        "latent_hyper": (layer_of(latent_prior, 0, nn.ConvTranspose2d).in_channels, 64),
        "latent_prior": (layer_of(latent_prior, 4, nn.ConvTranspose2d).out_channels, 16),
        "temporal_prior": (
            layer_of(codec.temporalPriorEncoder, 6, nn.Conv2d).out_channels,
            16,
        ),
    }


def coding(codec: "DCVC") -> Coding:
    """The program, and what the encoder brings to it."""

    def analyse(
        stream: str, frame: Tensor, known: Mapping[str, Tensor], rate: float | None
    ) -> tuple[Tensor, Tensor]:
        if stream == "motion":
            return codec.encode_motion(codec.opticFlow(frame, known["reference"])[0])
        return codec.encode_picture(frame, known["context"])

    return Coding(
        steps=(
            Step("hyper", "motion"),
            Step("run", "motion_prior"),
            Step("waves", "motion", "motion_wave"),
            Step("run", "context"),
            Step("hyper", "latent"),
            Step("run", "latent_prior"),
            Step("waves", "latent", "latent_wave"),
            Step("run", "reconstruction"),
        ),
        priors={"motion": codec.bitEstimator_z_mv, "latent": codec.bitEstimator_z},
        analyse=analyse,
        waves=_waves(tensors(codec)),
    )


def _waves(known: Mapping[str, tuple[int, int]]) -> tuple[WaveGraph, ...]:
    return (
        WaveGraph(
            "motion_wave",
            lambda codec, prior, patch: in_one_row(
                codec.motion_expected, prior, beside(codec.auto_regressive_mv, patch)
            ),
            positions(known, "motion_prior", "motion_latent_patch"),
            ("motion_mean", "motion_scale"),
        ),
        WaveGraph(
            "latent_wave",
            lambda codec, temporal, prior, patch: in_one_row(
                codec.latent_expected, temporal, prior, beside(codec.auto_regressive, patch)
            ),
            positions(known, "temporal_prior", "latent_prior", "latent_patch"),
            ("latent_mean", "latent_scale"),
        ),
    )


def graphs(codec: "DCVC", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """The graphs for frames of this size; `*_parameters` are what waves compute, all at once."""
    graph = grapher(codec, height, width, tensors(codec))
    return (
        graph(
            "motion_prior",
            lambda codec, hyper: codec.mvpriorDecoder(hyper),
            ("motion_hyper",),
            ("motion_prior",),
        ),
        graph(
            "motion_parameters",
            lambda codec, prior, decoded: codec.motion_parameters(prior, decoded),
            ("motion_prior", "motion_latent"),
            ("motion_mean", "motion_scale"),
        ),
        graph(
            "context",
            _context_and_temporal_prior,
            ("motion_latent", "reference"),
            ("context", "temporal_prior"),
        ),
        graph(
            "latent_prior",
            lambda codec, hyper: codec.priorDecoder(hyper),
            ("latent_hyper",),
            ("latent_prior",),
        ),
        graph(
            "latent_parameters",
            lambda codec, *priors: codec.latent_parameters(*priors),
            ("temporal_prior", "latent_prior", "latent"),
            ("latent_mean", "latent_scale"),
        ),
        graph(
            "reconstruction",
            lambda codec, decoded, context: codec.reconstruct(decoded, context).clamp(0, 1),
            ("latent", "context"),
            ("frame",),
        ),
    )


def _context_and_temporal_prior(
    codec: "DCVC", motion_latent: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor]:
    context = codec.make_context(reference, codec.decode_motion(motion_latent, reference))
    return context, codec.temporalPriorEncoder(context)
