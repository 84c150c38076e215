"""The receivers of DCVC-HEM's P and I frames: their graphs, tensors by name, and programs.

Latents enter the graphs dequantised: (first + second half) * step * quantiser.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lvc.program import Step
from vcodecs.contract import Coding, DecoderGraph, grapher
from vcodecs.dcvc_hem.blocks import ResidualBlock
from vcodecs.dcvc_hem.prior import Parameters, second_parameters
from vcodecs.layers import layer_of

if TYPE_CHECKING:
    from vcodecs.dcvc_hem.intra import DCVCHEMIntra
    from vcodecs.dcvc_hem.video import DCVCHEM

Specs = dict[str, tuple[int, int]]
PARTS = ("step", "scale", "mean")
CONTEXTS = ("context", "half_context", "quarter_context")


def latent_tensors(stream: str, name: str, channels: int, hyper: int) -> Specs:
    """A latent and what belongs to it: its hyper latent, what is expected of it, its first half."""
    beside = (f"previous_{name}", f"{stream}_first", *(f"{stream}_{part}" for part in PARTS))
    same = {each: (channels, 16) for each in (name, *beside)}
    return same | {f"{stream}_hyper": (hyper, 64)}


def expected(stream: str) -> tuple[str, ...]:
    """The tensors that a prior makes of a stream."""
    return tuple(f"{stream}_{part}" for part in PARTS)


def second_half(graph: Callable[..., DecoderGraph], stream: str, network: str) -> DecoderGraph:
    """The spatial prior `network`: expectation of a latent's second half."""
    return graph(
        f"{stream}_second_parameters",
        lambda codec, first, *known: second_parameters(
            getattr(codec, network), first, Parameters(*known)
        ),
        (f"{stream}_first", *expected(stream)),
        (f"{stream}_second_scale", f"{stream}_second_mean"),
    )


# ------------------------------------------------------------------------------ P frames


def video_tensors(codec: "DCVCHEM") -> Specs:
    """Every tensor that a P frame's graphs read: channels, and stride of rows and columns."""
    fusion = codec.context_fusion_net
    motion_hyper = layer_of(codec.mv_hyper_prior_decoder, 0, nn.Conv2d).in_channels
    latent_hyper = layer_of(codec.contextual_hyper_prior_decoder, 0, nn.Conv2d).in_channels
    motion = layer_of(codec.mv_decoder, 0, ResidualBlock).conv1.in_channels
    latent = codec.contextual_decoder.up1.inner.in_channels
    return {
        "reference": (3, 1),
        "previous_feature": (codec.feature_adaptor_P.in_channels, 1),
        "context": (fusion.conv1_out.out_channels, 1),
        "half_context": (fusion.conv2_out.out_channels, 2),
        "quarter_context": (fusion.conv3_out.out_channels, 4),
        "temporal_prior": (layer_of(codec.temporal_prior_encoder, 2, nn.Conv2d).out_channels, 16),
        **latent_tensors("motion", "motion_latent", motion, motion_hyper),
        **latent_tensors("latent", "latent", latent, latent_hyper),
    }


def video_coding(codec: "DCVCHEM") -> Coding:
    """The program of a P frame, and what the encoder brings to it."""

    def analyse(
        stream: str, frame: Tensor, known: Mapping[str, Tensor], rate: float | None
    ) -> tuple[Tensor, Tensor]:
        if stream == "motion":
            flow, _ = codec.optic_flow(frame, known["reference"])
            return codec.encode_motion(flow, codec.motion_quantiser(rate))
        full, half, quarter = (known[name] for name in CONTEXTS)
        contexts = full, half, quarter
        return codec.encode_picture(frame, contexts, codec.latent_quantiser(rate))

    return Coding(
        steps=(
            Step("hyper", "motion"),
            Step("run", "motion_parameters"),
            Step("checkerboard", "motion", "motion_second_parameters"),
            Step("run", "context", after_intra="context_after_intra"),
            Step("hyper", "latent"),
            Step("run", "latent_parameters"),
            Step("checkerboard", "latent", "latent_second_parameters"),
            Step("run", "reconstruction"),
        ),
        priors={"motion": codec.bit_estimator_z_mv, "latent": codec.bit_estimator_z},
        analyse=analyse,
        quantisers={
            "motion": (codec.step_bound(codec.mv_y_q_basic), codec.mv_y_q_scale),
            "latent": (codec.step_bound(codec.y_q_basic), codec.y_q_scale),
        },
    )


def video_graphs(codec: "DCVCHEM", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """The graphs of a P frame, the one behind an I frame included."""
    graph = grapher(codec, height, width, video_tensors(codec))
    return (
        graph(
            "motion_parameters",
            lambda codec, *known: tuple(codec.motion_parameters(*known)),
            ("motion_hyper", "previous_motion_latent"),
            expected("motion"),
        ),
        second_half(graph, "motion", "mv_y_spatial_prior"),
        graph(
            "context_after_intra",
            lambda codec, latent, picture: _contexts(
                codec, latent, codec.feature_adaptor_I(picture)
            ),
            ("motion_latent", "reference"),
            (*CONTEXTS, "temporal_prior"),
            after_intra=True,
        ),
        graph(
            "context",
            lambda codec, latent, kept: _contexts(codec, latent, codec.feature_adaptor_P(kept)),
            ("motion_latent", "previous_feature"),
            (*CONTEXTS, "temporal_prior"),
        ),
        graph(
            "latent_parameters",
            lambda codec, *known: tuple(codec.latent_parameters(*known)),
            ("latent_hyper", "temporal_prior", "previous_latent"),
            expected("latent"),
        ),
        second_half(graph, "latent", "y_spatial_prior"),
        graph("reconstruction", _frame_and_feature, ("latent", *CONTEXTS), ("frame", "feature")),
    )


def _contexts(codec: "DCVCHEM", motion_latent: Tensor, feature: Tensor) -> tuple[Tensor, ...]:
    contexts = codec.make_contexts(feature, codec.mv_decoder(motion_latent))
    return *contexts, codec.temporal_prior_encoder(contexts[2])


def _frame_and_feature(
    codec: "DCVCHEM", latent: Tensor, full: Tensor, half: Tensor, quarter: Tensor
) -> tuple[Tensor, Tensor]:
    picture, feature = codec.reconstruct(latent, (full, half, quarter))
    return picture.clamp(0, 1), feature


# ------------------------------------------------------------------------------ I frames


def intra_tensors(codec: "DCVCHEMIntra") -> Specs:
    """Every tensor that an I frame's graphs read."""
    latent = layer_of(codec.dec, 0, ResidualBlock).conv1.in_channels
    hyper = layer_of(codec.hyper_dec, 0, nn.Conv2d).in_channels
    return latent_tensors("latent", "latent", latent, hyper)


def intra_coding(codec: "DCVCHEMIntra") -> Coding:
    """The program of an I frame, and what the encoder brings to it."""
    return Coding(
        steps=(
            Step("hyper", "latent"),
            Step("run", "latent_parameters"),
            Step("checkerboard", "latent", "latent_second_parameters", distribution="normal"),
            Step("run", "reconstruction"),
        ),
        priors={"latent": codec.bit_estimator_z},
        analyse=lambda _, frame, __, rate: codec.encode_picture(frame, codec.quantiser(rate)),
        quantisers={"latent": (codec.step_bound(codec.q_basic), codec.q_scale)},
    )


def intra_graphs(codec: "DCVCHEMIntra", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """The graphs of an I frame."""
    graph = grapher(codec, height, width, intra_tensors(codec))
    return (
        graph(
            "latent_parameters",
            lambda codec, known: tuple(codec.latent_parameters(known)),
            ("latent_hyper",),
            expected("latent"),
        ),
        second_half(graph, "latent", "y_spatial_prior"),
        graph(
            "reconstruction",
            lambda codec, decoded: codec.reconstruct(decoded).clamp(0, 1),
            ("latent",),
            ("frame",),
        ),
    )
