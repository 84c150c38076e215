"""The P-frame network of DCVC-HEM.

reference picture or feature --> features at three scales --> warped: contexts, mixed top-down
frame, contexts --> contextual encoder --> [bits] --> contextual decoder, contexts --> feature
feature --> picture, and kept for the next frame
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vcodecs.contract import (
    CodedFrame,
    Coding,
    DecoderGraph,
    Reference,
    Stage,
    VideoCodec,
)
from vcodecs.dcvc_hem import receiver
from vcodecs.dcvc_hem.blocks import (
    UNet,
    activated,
    analysis,
    hyper_decoder,
    hyper_encoder,
    synthesis,
)
from vcodecs.dcvc_hem.networks import (
    ContextFusion,
    Contexts,
    ContextualDecoder,
    ContextualEncoder,
    FeatureExtractor,
    Reconstruction,
)
from vcodecs.dcvc_hem.prior import (
    RATES,
    SMALLEST_STEP,
    Parameters,
    first_scales,
    parameters,
    prior_network,
    quantise,
    quantiser,
)
from vcodecs.dcvc_hem.start import start_as_hybrid
from vcodecs.entropy import BitEstimator, LaplaceBits, noisy, rounded
from vcodecs.layers import Bound, conv, has_values
from vcodecs.motion import SpyNet, halved_flow, warp


@dataclass(frozen=True)
class Widths:
    """Channels: of features and contexts, of the latent, inside the latent's priors (a unit), of
    the motion latent, of hyper latents, of the decoder's output, of the UNet's scales, of SpyNet,
    inside the motion latent's priors (a unit; as many as the latent has where absent).
    """

    feature: int = 64
    latent: int = 96
    prior: int = 96
    motion: int = 64
    hyper: int = 64
    decoded: int = 32
    unet: tuple[int, int, int] = (32, 64, 128)
    flow: tuple[int, int, int, int] = (32, 64, 32, 16)
    motion_prior: int | None = None


MOTION: tuple[str, ...] = (
    "optic_flow",
    "mv_encoder",
    "mv_hyper_prior_encoder",
    "mv_hyper_prior_decoder",
)
MOTION += ("mv_y_prior_fusion", "mv_y_spatial_prior", "mv_decoder", "bit_estimator_z_mv")
CONTEXT: tuple[str, ...] = (
    "feature_adaptor_I",
    "feature_adaptor_P",
    "feature_extractor",
    "context_fusion_net",
)
CONTEXT += ("contextual_encoder", "contextual_hyper_prior_encoder")
CONTEXT += ("contextual_hyper_prior_decoder", "temporal_prior_encoder", "y_prior_fusion")
CONTEXT += ("y_spatial_prior", "contextual_decoder", "recon_generation_net", "bit_estimator_z")
MOTION_STEPS = ("mv_y_q_basic", "mv_y_q_scale")
CONTEXT_STEPS = ("y_q_basic", "y_q_scale")
ENCODER_ONLY: tuple[str, ...] = (
    "optic_flow",
    "mv_encoder",
    "mv_hyper_prior_encoder",
    "contextual_encoder",
)
ENCODER_ONLY += ("contextual_hyper_prior_encoder",)


class DCVCHEM(VideoCodec):
    """One set of weights for all rates: `rate` is a real number from 0 (fewest bits) to 3."""

    name = "dcvc_hem"
    presets: ClassVar[Mapping[str, Widths]] = {
        "official": Widths(),
        "base": Widths(64, 96, 32, 64, 48, 32, (32, 64, 112), (16, 32, 16, 16), 32),
        "small": Widths(24, 96, 12, 24, 24, 12, (16, 24, 48), (16, 32, 16, 8)),
        "tiny": Widths(8, 8, 8, 8, 8, 8, (8, 8, 8), (8, 8, 8, 8)),
    }

    def __init__(self, preset: str = "official") -> None:
        super().__init__()
        self.preset = preset
        widths = self.presets[preset]
        self._build_quantisers(widths)
        self._build_motion(widths)
        self._build_context(widths)
        self.laplace = LaplaceBits()
        self.step_bound = Bound(SMALLEST_STEP)
        if preset != "official" and has_values(self):
            start_as_hybrid(self)

    def _build_quantisers(self, w: Widths) -> None:
        self.mv_y_q_basic = nn.Parameter(torch.ones(1, w.motion, 1, 1))
        self.mv_y_q_scale = first_scales()
        self.y_q_basic = nn.Parameter(torch.ones(1, w.latent, 1, 1))
        self.y_q_scale = first_scales()

    def _build_motion(self, w: Widths) -> None:
        self.optic_flow = SpyNet(w.flow)
        self.mv_encoder = analysis(2, w.motion, w.motion)
        self.mv_hyper_prior_encoder = hyper_encoder(w.motion, w.hyper)
        m, p = w.motion, w.motion_prior or w.motion
        self.mv_hyper_prior_decoder = hyper_decoder(w.hyper, p, m)
        self.mv_y_prior_fusion = prior_network(3 * m, 3 * p, 3 * p, 3 * m)
        self.mv_y_spatial_prior = prior_network(4 * m, 3 * p, 3 * p, 2 * m)
        self.mv_decoder = synthesis(w.motion, w.motion, 2)
        self.bit_estimator_z_mv = BitEstimator(w.hyper)

    def _build_context(self, w: Widths) -> None:
        n, y, p = w.feature, w.latent, w.prior
        self.feature_adaptor_I = conv(3, n, 3)
        self.feature_adaptor_P = conv(n, n, 1)
        self.feature_extractor = FeatureExtractor(n, (n, n, n))
        self.context_fusion_net = ContextFusion((n, n, n))
        self.contextual_encoder = ContextualEncoder(n, y)
        self.contextual_hyper_prior_encoder = activated(
            conv(y, w.hyper, 3), conv(w.hyper, w.hyper, 3, 2), conv(w.hyper, w.hyper, 3, 2)
        )
        self.contextual_hyper_prior_decoder = hyper_decoder(w.hyper, p, y)
        self.temporal_prior_encoder = activated(
            conv(n, p * 3 // 2, 3, 2), conv(p * 3 // 2, 2 * y, 3, 2), slope=0.1
        )
        self.y_prior_fusion = prior_network(5 * y, 4 * p, 3 * p, 3 * y)
        self.y_spatial_prior = prior_network(4 * y, 3 * p, 3 * p, 2 * y)
        self.contextual_decoder = ContextualDecoder(n, y, w.decoded)
        self.recon_generation_net = Reconstruction(n + w.decoded, n, lambda: UNet(n, n, w.unet))
        self.bit_estimator_z = BitEstimator(w.hyper)

    # ------------------------------------------------------------------ estimation path

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The official estimation path; symbols are coded as they are reconstructed."""
        previous = reference.frame
        flow, coarse_error = self.optic_flow(frame, previous, with_error=upto == "flow")
        if upto == "flow":
            return CodedFrame(warp(previous, flow), reference, {}, coarse_error)
        motion, motion_latent, motion_bits = self._code_motion(flow, reference, rate)
        if upto == "motion":
            return CodedFrame(warp(previous, motion), reference, motion_bits)
        contexts = self.make_contexts(self._adapted(reference), motion)
        latent, latent_bits = self._code_picture(frame, contexts, reference, rate)
        decoded, feature = self.reconstruct(latent, contexts)
        kept = decoded if self.training else decoded.clamp(0, 1)
        return CodedFrame(
            decoded, Reference(kept, feature, latent, motion_latent), motion_bits | latent_bits
        )

    def _code_motion(
        self, flow: Tensor, reference: Reference, rate: float | Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        divisor = self.motion_quantiser(rate)
        latent, hyper = self.encode_motion(flow, divisor)
        hyper_hat = rounded(hyper)
        prior = self.motion_parameters(hyper_hat, reference.motion_latent)
        coded = quantise(latent, prior, self.mv_y_spatial_prior, self.training)
        bits = {
            "motion": self.laplace.of_symbols(coded.symbols, coded.scale),
            "motion_hyper": self.bit_estimator_z_mv(noisy(hyper) if self.training else hyper_hat),
        }
        decoded = coded.latent * divisor
        return self.mv_decoder(decoded).float(), decoded, bits

    def _code_picture(
        self, frame: Tensor, contexts: Contexts, reference: Reference, rate: float | Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        divisor = self.latent_quantiser(rate)
        latent, hyper = self.encode_picture(frame, contexts, divisor)
        hyper_hat = rounded(hyper)
        temporal = self.temporal_prior_encoder(contexts[2])
        prior = self.latent_parameters(hyper_hat, temporal, reference.latent)
        coded = quantise(latent, prior, self.y_spatial_prior, self.training)
        bits = {
            "latent": self.laplace.of_symbols(coded.symbols, coded.scale),
            "latent_hyper": self.bit_estimator_z(noisy(hyper) if self.training else hyper_hat),
        }
        return coded.latent * divisor, bits

    def _adapted(self, reference: Reference) -> Tensor:
        """The reference's feature; behind an I frame there is only its picture."""
        if reference.feature is None:
            return self.feature_adaptor_I(reference.frame)
        return self.feature_adaptor_P(reference.feature)

    # ------------------------------------------------------------------ the encoder's functions

    def motion_quantiser(self, rate: float | Tensor | None) -> Tensor:
        """The divisor of the motion latent (N or 1, C, 1, 1)."""
        return quantiser(self.mv_y_q_basic, self.mv_y_q_scale, rate, self.step_bound)

    def latent_quantiser(self, rate: float | Tensor | None) -> Tensor:
        """The divisor of the latent (N or 1, C, 1, 1)."""
        return quantiser(self.y_q_basic, self.y_q_scale, rate, self.step_bound)

    def encode_motion(self, flow: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
        """The divided motion latent and its hyper latent, neither rounded yet."""
        latent = self.mv_encoder(flow).float() / divisor
        return latent, self.mv_hyper_prior_encoder(latent)

    def encode_picture(
        self, frame: Tensor, contexts: Contexts, divisor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The divided latent and its hyper latent, neither rounded yet."""
        latent = self.contextual_encoder(frame, contexts).float() / divisor
        return latent, self.contextual_hyper_prior_encoder(latent)

    # ------------------------------------------------------------------ the receiver's functions

    def motion_parameters(self, hyper: Tensor, previous: Tensor | None) -> Parameters:
        """Expectation of the motion latent; `previous` is the last frame's, if any."""
        prior = self.mv_hyper_prior_decoder(hyper)
        if previous is None:
            previous = _nothing(prior, self.mv_y_q_basic)
        fused = self.mv_y_prior_fusion(torch.cat((prior, previous), dim=1))
        return parameters(fused, self.step_bound)

    def latent_parameters(
        self, hyper: Tensor, temporal: Tensor, previous: Tensor | None
    ) -> Parameters:
        """Expectation of the latent; `previous` is the last frame's, if any."""
        prior = self.contextual_hyper_prior_decoder(hyper)
        if previous is None:
            previous = _nothing(prior, self.y_q_basic)
        fused = self.y_prior_fusion(torch.cat((temporal, prior, previous), dim=1))
        return parameters(fused, self.step_bound)

    def make_contexts(self, feature: Tensor, motion: Tensor) -> Contexts:
        """The reference's feature at three scales, each moved to where the frame needs it."""
        full, half, quarter = self.feature_extractor(feature)
        half_motion = halved_flow(motion)
        return self.context_fusion_net(
            warp(full, motion), warp(half, half_motion), warp(quarter, halved_flow(half_motion))
        )

    def reconstruct(self, latent: Tensor, contexts: Contexts) -> tuple[Tensor, Tensor]:
        """The picture, not yet clamped, and the feature that is kept for the next frame."""
        full, half, quarter = contexts
        decoded = self.contextual_decoder(latent, half, quarter)
        feature, picture = self.recon_generation_net(decoded, full)
        return picture.float(), feature

    # ------------------------------------------------------------------ contract

    def rates(self) -> tuple[float, ...]:
        return RATES

    def decoder_modules(self) -> tuple[str, ...]:
        return tuple(name for name in MOTION + CONTEXT if name not in ENCODER_ONLY)

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return (("feature", "recon_generation_net.unet_2.up_conv2.up_dim"),)

    def stages(self) -> tuple[Stage, ...]:
        bits = ("motion", "motion_hyper"), ("latent", "latent_hyper")
        motion, context = MOTION + MOTION_STEPS, CONTEXT + CONTEXT_STEPS
        return (
            Stage("flow", ("optic_flow",), picture="flow", streams=()),
            Stage("motion", motion, picture="motion", streams=bits[0]),
            Stage("reconstruction", context, streams=bits[1], frames=2),
            Stage("joint", motion + context, frames=2),
            Stage("unrolled", motion + context, frames=4),
        )

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def coding(self) -> Coding:
        return receiver.video_coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        return receiver.video_graphs(self, height, width)


def _nothing(prior: Tensor, basic: Tensor) -> Tensor:
    """The latent before the first P frame: zeros, with a channel for each factor of `basic`."""
    return prior.new_zeros(len(prior), basic.shape[1], *prior.shape[2:])
