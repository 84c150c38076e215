"""The P-frame network of DCVC-SDD, and of NVC-1B, which is the same in larger.

reference picture, frame --> structure and detail --> motion of both --> [bits] --> motion of both
reference feature --> features at three scales --> structure and detail, each moved by its motion
all features so far --> recurrent cell --> its last state at three scales, fused in: contexts
frame, contexts --> contextual encoder --> [bits] --> contextual decoder, contexts --> feature
feature --> picture, and kept for the next frame
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from vcodecs.contract import CodedFrame, Coding, DecoderGraph, Reference, Stage, VideoCodec
from vcodecs.dcvc_hem.blocks import activated, hyper_encoder
from vcodecs.dcvc_hem.networks import ContextFusion, Contexts, FeatureExtractor, Reconstruction
from vcodecs.dcvc_hem.prior import rate_factor
from vcodecs.dcvc_sdd import receiver
from vcodecs.dcvc_sdd.blocks import ConvLSTM, DepthConvBlock, OffsetDiversity, split
from vcodecs.dcvc_sdd.modules import ADAPTORS, MINING, MOTION, PICTURE, SENDER_ONLY, SIDES
from vcodecs.dcvc_sdd.networks import (
    ContextualDecoder,
    ContextualEncoder,
    MotionDecoder,
    MotionEncoder,
    hyper_decoder,
    spatial_prior,
    unet,
)
from vcodecs.dcvc_sdd.presets import OURS, PRESETS, Widths
from vcodecs.dcvc_sdd.prior import (
    RATES,
    SMALLEST_STEP,
    Expectation,
    expected,
    parameters,
    quantise,
)
from vcodecs.dcvc_sdd.start import start_as_hybrid
from vcodecs.entropy import BitEstimator, LaplaceBits, noisy, rounded
from vcodecs.layers import Bound, conv, has_values
from vcodecs.motion import SpyNet, halved_flow, warp

State = tuple[Tensor, Tensor]
"""Hidden and cell state of the recurrent cell."""


class DCVCSDD(VideoCodec):
    """One set of weights for all rates: `rate` is a real number from 0 (fewest bits) to 3."""

    name = "dcvc_sdd"
    presets: ClassVar[Mapping[str, Widths]] = PRESETS
    turns = 4

    def __init__(self, preset: str = "official") -> None:
        super().__init__()
        self.preset = preset
        w = self.presets[preset]
        self._build_factors(w)
        self._build_motion(w)
        self._build_mining(w)
        self._build_picture(w)
        self.laplace = LaplaceBits()
        self.step_bound = Bound(SMALLEST_STEP)
        if preset in OURS and has_values(self):
            start_as_hybrid(self)

    def _build_factors(self, w: Widths) -> None:
        half = w.contextual[0]
        widths = {"mv_y": (w.motion, w.motion), "y": (half + w.contexts[1], half)}
        for stream, of_sides in widths.items():
            for side, width, start in zip(SIDES, of_sides, (-0.25, 0.25), strict=True):
                basic = torch.ones(1, width, 1, 1)
                # Four different rates from the first step on; what the encoder enlarges the
                # decoder makes small again.
                scales = torch.logspace(start, -start, len(RATES)).reshape(-1, 1, 1, 1)
                self.register_parameter(f"{stream}_q_basic_{side}", nn.Parameter(basic))
                self.register_parameter(f"{stream}_q_scale_{side}", nn.Parameter(scales))

    def _build_motion(self, w: Widths) -> None:
        m = w.motion_latent
        self.optic_flow = SpyNet(w.flow)
        self.mv_encoder = MotionEncoder(w)
        self.mv_hyper_prior_encoder = hyper_encoder(m, m)
        self.mv_hyper_prior_decoder = hyper_decoder(m)
        self.mv_y_prior_fusion_adaptor_0 = DepthConvBlock(m, 2 * m, w.wide)
        self.mv_y_prior_fusion_adaptor_1 = DepthConvBlock(2 * m, 2 * m, w.wide)
        self.mv_y_prior_fusion = nn.Sequential(
            DepthConvBlock(2 * m, 3 * m, w.wide), DepthConvBlock(3 * m, 3 * m, w.wide)
        )
        for step in (1, 2, 3):
            setattr(self, f"mv_y_spatial_prior_adaptor_{step}", conv(4 * m, 3 * m, 1))
        self.mv_y_spatial_prior = spatial_prior(m, w.wide)
        self.mv_decoder = MotionDecoder(w)
        self.bit_estimator_z_mv = BitEstimator(m)

    def _build_mining(self, w: Widths) -> None:
        full = w.mining[0]
        self.feature_adaptor_I = conv(3, full, 3)
        self.feature_adaptor = conv(w.feature, full, 1)
        self.feature_adaptor2 = conv(w.feature, full, 1)
        self.feature_adaptor3 = conv(w.feature, full, 1)
        self.lstm = ConvLSTM(full)
        self.feature_extractor = FeatureExtractor(full, w.mining, w.mining_depth)
        self.feature_extractor_hidden = FeatureExtractor(full, w.mining, w.mining_depth)
        self.align_s = OffsetDiversity(full, w.groups, w.offsets)
        self.align_d = OffsetDiversity(full, w.groups, w.offsets)
        self.context_fusion_net = ContextFusion(w.mining, w.mining_depth)
        self.context_fusion_net_hidden = ContextFusion(w.mining, w.mining_depth)
        for i, width in enumerate(w.mining, 1):
            setattr(self, f"context_hidden_fusion{i}", conv(2 * width, width, 3))
        self.scales_out: tuple[str, ...] = ()
        if w.mining != w.contexts:
            self.scales_out = ("context_out1", "context_out2", "context_out3")
            for name, inside, outside in zip(self.scales_out, w.mining, w.contexts, strict=True):
                setattr(self, name, conv(inside, outside, 1))

    def _build_picture(self, w: Widths) -> None:
        y, quarter = w.latent, w.contexts[2]
        self.contextual_encoder = ContextualEncoder(w)
        self.contextual_hyper_prior_encoder = activated(
            conv(y, y, 3), conv(y, y, 3, 2), conv(y, y, 3, 2)
        )
        self.contextual_hyper_prior_decoder = hyper_decoder(y)
        self.temporal_prior_encoder = activated(
            conv(quarter, w.temporal, 3, 2), conv(w.temporal, y, 3, 2), slope=0.1
        )
        self.y_prior_fusion_adaptor_0 = DepthConvBlock(2 * y, 3 * y, w.wide)
        self.y_prior_fusion_adaptor_1 = DepthConvBlock(3 * y, 3 * y, w.wide)
        self.y_prior_fusion = nn.Sequential(
            DepthConvBlock(3 * y, 3 * y, w.wide), DepthConvBlock(3 * y, 3 * y, w.wide)
        )
        for step in (1, 2, 3):
            setattr(self, f"y_spatial_prior_adaptor_{step}", conv(4 * y, 3 * y, 1))
        self.y_spatial_prior = spatial_prior(y, w.wide)
        self.contextual_decoder = ContextualDecoder(w)
        self.recon_generation_net = Reconstruction(
            w.decoded + w.contexts[0], w.feature, lambda: unet(w)
        )
        self.bit_estimator_z = BitEstimator(y)

    # ------------------------------------------------------------------ estimation path

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The official estimation path; symbols are coded as they are reconstructed."""
        previous = split(reference.frame)
        flows, coarse_error = self.estimate(frame, previous, with_error=upto == "flow")
        if upto == "flow":
            return CodedFrame(_moved(previous, flows), reference, {}, coarse_error)
        before, after = reference.state, reference.position + 1
        motion_latent, bits = self._code_motion(flows, reference, rate)
        *motions, motion_feature = self.mv_decoder(motion_latent, self.factor("mv_y", "dec", rate))
        if upto == "motion":
            # The frame stands for its own decoded picture, which no one has made.
            known = {"motion_feature": motion_feature}
            following = Reference(frame, motion_latent=motion_latent, state=known, position=after)
            return CodedFrame(_moved(previous, motions), following, bits)
        kept = None if reference.feature is None else (before["hidden"], before["cell"])
        contexts, (hidden, cell) = self.mine(
            self.adapted(reference.frame, reference.feature, after), previous, motions, kept
        )
        latent, latent_bits = self._code_picture(frame, contexts, reference, rate)
        decoded, feature = self.reconstruct(latent, contexts, self.factor("y", "dec", rate))
        shown = decoded if self.training else decoded.clamp(0, 1)
        state = {"motion_feature": motion_feature, "hidden": hidden, "cell": cell}
        following = Reference(shown, feature, latent, motion_latent, state, after)
        return CodedFrame(decoded, following, bits | latent_bits)

    def estimate(
        self, frame: Tensor, previous: tuple[Tensor, Tensor], with_error: bool = False
    ) -> tuple[list[Tensor], Tensor | None]:
        """Motion of structure and of detail, by one network; `with_error` as in `SpyNet`."""
        found = [
            self.optic_flow(now, before, with_error)
            for now, before in zip(split(frame), previous, strict=True)
        ]
        errors = [error for _, error in found if error is not None]
        return [flow for flow, _ in found], sum(errors) if errors else None

    def _code_motion(
        self, flows: list[Tensor], reference: Reference, rate: float | Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        latent = self.encode_motion(flows, reference.state.get("motion_feature"), rate)
        hyper = self.mv_hyper_prior_encoder(latent)
        hyper_hat = rounded(hyper)
        prior = self.motion_parameters(hyper_hat, reference.motion_latent)
        coded = quantise(
            latent,
            prior,
            lambda step, known: self.expected("mv_y", step, known, prior.fused),
            self.training,
        )
        return coded.latent, {
            "motion": self.laplace.of_symbols(coded.symbols, coded.scale),
            "motion_hyper": self.bit_estimator_z_mv(noisy(hyper) if self.training else hyper_hat),
        }

    def _code_picture(
        self, frame: Tensor, contexts: Contexts, reference: Reference, rate: float | Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        latent = self.encode_picture(frame, contexts, rate)
        hyper = self.contextual_hyper_prior_encoder(latent)
        hyper_hat = rounded(hyper)
        temporal = self.temporal_prior_encoder(contexts[2])
        prior = self.latent_parameters(hyper_hat, temporal, reference.latent)
        coded = quantise(
            latent,
            prior,
            lambda step, known: self.expected("y", step, known, prior.fused),
            self.training,
        )
        return coded.latent, {
            "latent": self.laplace.of_symbols(coded.symbols, coded.scale),
            "latent_hyper": self.bit_estimator_z(noisy(hyper) if self.training else hyper_hat),
        }

    def encode_motion(
        self, flows: list[Tensor], before: Tensor | None, rate: float | Tensor | None
    ) -> Tensor:
        """The motion latent, not yet quantised; `before`: the last frame's motion feature."""
        factor = self.factor("mv_y", "enc", rate)
        return self.mv_encoder(torch.cat(flows, dim=1), before, factor).float()

    def encode_picture(
        self, frame: Tensor, contexts: Contexts, rate: float | Tensor | None
    ) -> Tensor:
        """The latent, not yet quantised."""
        return self.contextual_encoder(frame, contexts, self.factor("y", "enc", rate)).float()

    # ------------------------------------------------------------------ the receiver's functions

    def factor(self, stream: str, side: str, rate: float | Tensor | None) -> Tensor:
        """The factor of a feature inside a transform, (1 or N, C, 1, 1)."""
        return self.basic(stream, side) * rate_factor(self.scales(stream, side), rate)

    def basic(self, stream: str, side: str) -> Tensor:
        """The channels' share of a factor, (1, C, 1, 1)."""
        return self.get_parameter(f"{stream}_q_basic_{side}")

    def scales(self, stream: str, side: str) -> Tensor:
        """The rate points' share of a factor, (R, 1, 1, 1)."""
        return self.get_parameter(f"{stream}_q_scale_{side}")

    def motion_parameters(self, hyper: Tensor, previous: Tensor | None) -> Expectation:
        """Expectation of the motion latent; `previous` is the last frame's, if any."""
        prior = self.mv_hyper_prior_decoder(hyper)
        if previous is None:
            prior = self.mv_y_prior_fusion_adaptor_0(prior)
        else:
            prior = self.mv_y_prior_fusion_adaptor_1(torch.cat((prior, previous), dim=1))
        return parameters(self.mv_y_prior_fusion(prior), self.step_bound)

    def latent_parameters(
        self, hyper: Tensor, temporal: Tensor, previous: Tensor | None
    ) -> Expectation:
        """Expectation of the latent; `previous` is the last frame's, if any."""
        known = [temporal, self.contextual_hyper_prior_decoder(hyper)]
        if previous is None:
            prior = self.y_prior_fusion_adaptor_0(torch.cat(known, dim=1))
        else:
            prior = self.y_prior_fusion_adaptor_1(torch.cat((*known, previous), dim=1))
        return parameters(self.y_prior_fusion(prior), self.step_bound)

    def expected(
        self, stream: str, step: int, known: Tensor, fused: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scale and mean of a latent in step 1, 2 or 3 (the second to the fourth)."""
        adaptor = self.get_submodule(f"{stream}_spatial_prior_adaptor_{step}")
        return expected(adaptor, self.get_submodule(f"{stream}_spatial_prior"), known, fused)

    def adapted(self, picture: Tensor, feature: Tensor | None, position: int) -> Tensor:
        """The start of context mining; behind an I frame there is only its picture."""
        if feature is None:
            return self.feature_adaptor_I(picture)
        return self.get_submodule(ADAPTORS[position % len(ADAPTORS)])(feature)

    def mine(
        self,
        adapted: Tensor,
        previous: tuple[Tensor, Tensor],
        motions: list[Tensor],
        state: State | None,
    ) -> tuple[Contexts, State]:
        """Contexts at three scales, and the recurrent cell's state with this feature in it.

        `previous`: structure and detail of the last picture, `motions` of both. What the cell
        knew before (`state`; None behind an I frame) is the long-term part of the contexts.
        """
        following = self.lstm(adapted, state)
        aligned = self._aligned(self.feature_extractor(adapted), previous, motions)
        contexts = self.context_fusion_net(*aligned)
        if state is not None:
            lasting = self.context_fusion_net_hidden(*self.feature_extractor_hidden(state[0]))
            contexts = tuple(
                self.get_submodule(f"context_hidden_fusion{i}")(torch.cat(pair, dim=1))
                for i, pair in enumerate(zip(contexts, lasting, strict=True), 1)
            )
        if self.scales_out:
            contexts = tuple(
                self.get_submodule(name)(context)
                for name, context in zip(self.scales_out, contexts, strict=True)
            )
        return contexts, following

    def _aligned(
        self, features: Contexts, previous: tuple[Tensor, Tensor], motions: list[Tensor]
    ) -> Contexts:
        """Features moved, structure and detail by the motion of each."""
        full, half, quarter = (split(feature) for feature in features)
        alignments = (self.align_s, self.align_d)
        at_full = [
            align(*given) for align, *given in zip(alignments, full, previous, motions, strict=True)
        ]
        halved = [halved_flow(motion) for motion in motions]
        quartered = [halved_flow(motion) for motion in halved]
        return at_full[0] + at_full[1], _moved(half, halved), _moved(quarter, quartered)

    def reconstruct(
        self, latent: Tensor, contexts: Contexts, factor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The picture, not yet clamped, and the feature that is kept for the next frame."""
        full, half, quarter = contexts
        decoded = self.contextual_decoder(latent, half, quarter, factor)
        feature, picture = self.recon_generation_net(decoded, full)
        return picture.float(), feature

    # ------------------------------------------------------------------ contract

    def rates(self) -> tuple[float, ...]:
        return RATES

    def decoder_modules(self) -> tuple[str, ...]:
        everything = MOTION + MINING + self.scales_out + PICTURE
        return tuple(name for name in everything if name not in SENDER_ONLY)

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return receiver.tied_channels(self)

    def stages(self) -> tuple[Stage, ...]:
        bits = ("motion", "motion_hyper"), ("latent", "latent_hyper")
        motion = (*MOTION, *_factors("mv_y"))
        picture = (*MINING, *self.scales_out, *PICTURE, *_factors("y"))
        return (
            Stage("flow", ("optic_flow",), picture="flow", streams=()),
            Stage("motion", motion, picture="motion", streams=bits[0], frames=2),
            Stage("reconstruction", picture, streams=bits[1], frames=5),
            Stage("joint", motion + picture, frames=5),
            Stage("unrolled", motion + picture, frames=5),
        )

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def coding(self) -> Coding:
        return receiver.coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        return receiver.graphs(self, height, width)


def _factors(stream: str) -> tuple[str, ...]:
    return tuple(f"{stream}_q_{part}_{side}" for part in ("basic", "scale") for side in SIDES)


def _moved(parts: tuple[Tensor, Tensor], motions: list[Tensor]) -> Tensor:
    """Structure and detail, each moved by its own motion, as one again."""
    return warp(parts[0], motions[0]) + warp(parts[1], motions[1])
