"""The network of DCVC.

    reference --> SpyNet --> motion encoder --> [bits] --> motion decoder --> motion
    reference --> features --> warped by motion --> refined: context
    frame, context --> contextual encoder --> [bits] --> contextual decoder, context --> picture

The latent is conditioned on the context instead of coding a residual; its entropy model joins a
hyperprior, a temporal prior made from the context, and an auto-regressive spatial prior.
"""

from collections.abc import Callable, Mapping
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
from vcodecs.copier import start_as_copier
from vcodecs.dcvc import receiver
from vcodecs.entropy import BitEstimator, LaplaceBits, noisy, rounded
from vcodecs.layers import (
    GDN,
    ActivatedResBlock,
    MaskedConv,
    ResBlock,
    SubpelConv,
    conv,
    deconv,
    has_values,
)
from vcodecs.motion import SpyNet, warp


@dataclass(frozen=True)
class Widths:
    """Channels: of the motion latent, of features, of the latent, of SpyNet, of hyper latents (as
    many as features where absent)."""

    motion: int = 128
    hidden: int = 64
    latent: int = 96
    flow: tuple[int, int, int, int] = (32, 64, 32, 16)
    hyper: int | None = None


MOTION: tuple[str, ...] = (
    "opticFlow",
    "mvEncoder",
    "mvpriorEncoder",
    "mvpriorDecoder",
    "auto_regressive_mv",
)
MOTION += ("entropy_parameters_mv", "mvDecoder_part1", "mvDecoder_part2", "bitEstimator_z_mv")
CONTEXT: tuple[str, ...] = (
    "feature_extract",
    "context_refine",
    "temporalPriorEncoder",
    "contextualEncoder",
)
CONTEXT += ("priorEncoder", "priorDecoder", "auto_regressive", "entropy_parameters")
CONTEXT += ("contextualDecoder_part1", "contextualDecoder_part2", "bitEstimator_z")
ENCODER_ONLY: tuple[str, ...] = (
    "opticFlow",
    "mvEncoder",
    "mvpriorEncoder",
    "contextualEncoder",
    "priorEncoder",
)


class DCVC(VideoCodec):
    """One lambda a model; the only inter-frame state is the decoded picture."""

    name = "dcvc"
    presets: ClassVar[Mapping[str, Widths]] = {
        "official": Widths(),
        "base": Widths(motion=48, flow=(16, 32, 16, 16), hyper=32),
        "small": Widths(motion=32, hidden=32, latent=48, flow=(16, 32, 16, 8)),
        "tiny": Widths(motion=16, hidden=8, latent=16, flow=(8, 8, 8, 8)),
    }

    def __init__(self, preset: str = "official") -> None:
        super().__init__()
        self.preset = preset
        widths = self.presets[preset]
        self._build_motion(widths)
        self._build_context(widths)
        self.laplace = LaplaceBits()
        if preset != "official" and has_values(self):
            start_as_copier(self)

    def _build_motion(self, w: Widths) -> None:
        self.opticFlow = SpyNet(w.flow)
        self.mvEncoder = nn.Sequential(
            conv(2, w.motion, 3, 2),
            GDN(w.motion),
            conv(w.motion, w.motion, 3, 2),
            GDN(w.motion),
            conv(w.motion, w.motion, 3, 2),
            GDN(w.motion),
            conv(w.motion, w.motion, 3, 2),
        )
        hyper = w.hyper or w.hidden
        self.mvpriorEncoder = _hyper_encoder(w.motion, hyper)
        self.mvpriorDecoder = _hyper_decoder(hyper, hyper, hyper * 3 // 2, 2 * w.motion)
        self.auto_regressive_mv = MaskedConv(w.motion, 2 * w.motion)
        self.entropy_parameters_mv = _parameter_network(w.motion)
        self.mvDecoder_part1 = nn.Sequential(
            deconv(w.motion, w.motion, 3),
            GDN(w.motion, inverse=True),
            deconv(w.motion, w.motion, 3),
            GDN(w.motion, inverse=True),
            deconv(w.motion, w.motion, 3),
            GDN(w.motion, inverse=True),
            deconv(w.motion, 2, 3),
        )
        layers: list[nn.Module] = [conv(5, w.hidden, 3)]
        for _ in range(5):
            layers += [nn.LeakyReLU(0.1), conv(w.hidden, w.hidden, 3)]
        self.mvDecoder_part2 = nn.Sequential(*layers, nn.LeakyReLU(0.1), conv(w.hidden, 2, 3))
        self.bitEstimator_z_mv = BitEstimator(hyper)

    def _build_context(self, w: Widths) -> None:
        n, hyper = w.hidden, w.hyper or w.hidden
        self.feature_extract = nn.Sequential(conv(3, n, 3), ResBlock(n))
        self.context_refine = nn.Sequential(ResBlock(n), conv(n, n, 3))
        self.temporalPriorEncoder = nn.Sequential(
            conv(n, n, 5, 2),
            GDN(n),
            conv(n, n, 5, 2),
            GDN(n),
            conv(n, n, 5, 2),
            GDN(n),
            conv(n, w.latent, 5, 2),
        )
        self.contextualEncoder = nn.Sequential(
            conv(n + 3, n, 5, 2),
            GDN(n),
            ActivatedResBlock(n),
            conv(n, n, 5, 2),
            GDN(n),
            ActivatedResBlock(n),
            conv(n, n, 5, 2),
            GDN(n),
            conv(n, w.latent, 5, 2),
        )
        self.priorEncoder = _hyper_encoder(w.latent, hyper)
        self.priorDecoder = _hyper_decoder(hyper, w.latent, w.latent, w.latent)
        self.auto_regressive = MaskedConv(w.latent, 2 * w.latent)
        self.entropy_parameters = _parameter_network(w.latent)
        self.contextualDecoder_part1 = nn.Sequential(
            SubpelConv(w.latent, n),
            GDN(n, inverse=True),
            SubpelConv(n, n),
            GDN(n, inverse=True),
            ActivatedResBlock(n),
            SubpelConv(n, n),
            GDN(n, inverse=True),
            ActivatedResBlock(n),
            SubpelConv(n, n),
        )
        self.contextualDecoder_part2 = nn.Sequential(
            conv(2 * n, n, 3), ResBlock(n), ResBlock(n), conv(n, 3, 3)
        )
        self.bitEstimator_z = BitEstimator(hyper)

    # ------------------------------------------------------------------ estimation path

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The official estimation path; see `_quantised` for where it differs from coding."""
        previous = reference.frame
        flow, coarse_error = self.opticFlow(frame, previous, with_error=upto == "flow")
        if upto == "flow":
            return CodedFrame(warp(previous, flow), reference, {}, coarse_error)
        motion, motion_bits = self._code_motion(flow, previous)
        if upto == "motion":
            return CodedFrame(warp(previous, motion), reference, motion_bits)
        context = self.make_context(previous, motion)
        decoded, latent_bits = self._code_picture(frame, context)
        kept = decoded if self.training else decoded.clamp(0, 1)
        return CodedFrame(decoded, Reference(kept), motion_bits | latent_bits)

    def _code_motion(self, flow: Tensor, previous: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        latent, hyper = self.encode_motion(flow)
        hyper_hat = rounded(hyper)
        prior = self.mvpriorDecoder(hyper_hat)
        latent_hat, mean, scale = self._quantised(
            latent, lambda known: self.motion_parameters(prior, known)
        )
        bits = {
            "motion": self.laplace(latent, mean, scale),
            "motion_hyper": self.bitEstimator_z_mv(noisy(hyper) if self.training else hyper_hat),
        }
        return self.decode_motion(latent_hat, previous), bits

    def _code_picture(self, frame: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        latent, hyper = self.encode_picture(frame, context)
        hyper_hat = rounded(hyper)
        temporal, prior = self.temporalPriorEncoder(context), self.priorDecoder(hyper_hat)
        latent_hat, mean, scale = self._quantised(
            latent, lambda known: self.latent_parameters(temporal, prior, known)
        )
        bits = {
            "latent": self.laplace(latent, mean, scale),
            "latent_hyper": self.bitEstimator_z(noisy(hyper) if self.training else hyper_hat),
        }
        return self.reconstruct(latent_hat, context).float(), bits

    def _quantised(
        self, latent: Tensor, expected: Callable[[Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The latent as the receiver gets it, and the means and scales that it is coded with.

        `expected` makes these of a decoded latent, looking at earlier positions only. Officially
        latents are rounded plainly for the picture but around their means for the rate; estimates
        in eval mode keep to that. Real coding rounds around the means for both, position by
        position, and what is trained is that: the means of a latent that was rounded around the
        means of a plainly rounded one, which all positions have at once.
        """
        plain = rounded(latent)
        mean, scale = expected(plain)
        if not self.training:
            return plain, mean, scale
        mean, scale = expected(rounded(latent - mean) + mean)
        return rounded(latent - mean) + mean, mean, scale

    # ------------------------------------------------------------------ the encoder's functions

    def encode_motion(self, flow: Tensor) -> tuple[Tensor, Tensor]:
        """The motion latent and its hyper latent, neither rounded yet."""
        latent = self.mvEncoder(flow)
        return latent, self.mvpriorEncoder(latent)

    def encode_picture(self, frame: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The latent and its hyper latent, neither rounded yet."""
        latent = self.contextualEncoder(torch.cat((frame, context), dim=1))
        return latent, self.priorEncoder(latent)

    # ------------------------------------------------------------------ the receiver's functions

    def motion_parameters(self, prior: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales of the motion latent from its hyperprior and its decoded part."""
        return self.motion_expected(prior, self.auto_regressive_mv(latent))

    def motion_expected(self, prior: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        """Means and scales of the motion latent from both its priors."""
        mean, scale = self.entropy_parameters_mv(torch.cat((prior, spatial), dim=1)).chunk(2, 1)
        return mean, scale

    def latent_parameters(
        self, temporal: Tensor, prior: Tensor, latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and scales of the latent from the three priors."""
        return self.latent_expected(temporal, prior, self.auto_regressive(latent))

    def latent_expected(
        self, temporal: Tensor, prior: Tensor, spatial: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means and scales of the latent from its three priors."""
        joined = torch.cat((temporal, prior, spatial), dim=1)
        mean, scale = self.entropy_parameters(joined).chunk(2, 1)
        return mean, scale

    def decode_motion(self, latent: Tensor, previous: Tensor) -> Tensor:
        """Motion (N, 2, H, W) in pixels."""
        motion = self.mvDecoder_part1(latent)
        return motion + self.mvDecoder_part2(torch.cat((motion, previous), dim=1))

    def make_context(self, previous: Tensor, motion: Tensor) -> Tensor:
        """Features of the reference, moved to where the current frame needs them."""
        return self.context_refine(warp(self.feature_extract(previous), motion))

    def reconstruct(self, latent: Tensor, context: Tensor) -> Tensor:
        """The picture, not yet clamped."""
        feature = self.contextualDecoder_part1(latent)
        return self.contextualDecoder_part2(torch.cat((feature, context), dim=1))

    # ------------------------------------------------------------------ contract

    def decoder_modules(self) -> tuple[str, ...]:
        return tuple(name for name in MOTION + CONTEXT if name not in ENCODER_ONLY)

    def stages(self) -> tuple[Stage, ...]:
        motion = ("motion", "motion_hyper")
        return (
            Stage("flow", ("opticFlow",), picture="flow", streams=()),
            Stage("motion", MOTION, picture="motion", streams=motion),
            Stage("reconstruction", CONTEXT, streams=("latent", "latent_hyper")),
            Stage("joint", MOTION + CONTEXT),
            Stage("unrolled", MOTION + CONTEXT, frames=3),
        )

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def coding(self) -> Coding:
        return receiver.coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        return receiver.graphs(self, height, width)


def _hyper_encoder(latent: int, hyper: int) -> nn.Sequential:
    return nn.Sequential(
        conv(latent, hyper, 3),
        nn.LeakyReLU(),
        conv(hyper, hyper, 5, 2),
        nn.LeakyReLU(),
        conv(hyper, hyper, 5, 2),
    )


def _hyper_decoder(hyper: int, first: int, second: int, prior: int) -> nn.Sequential:
    return nn.Sequential(
        deconv(hyper, first, 5),
        nn.LeakyReLU(),
        deconv(first, second, 5),
        nn.LeakyReLU(),
        deconv(second, prior, 3, 1),
    )


def _parameter_network(latent: int) -> nn.Sequential:
    """1x1 network from the concatenated priors (4 x latent) to means and scales (2 x latent)."""
    return nn.Sequential(
        nn.Conv2d(latent * 12 // 3, latent * 10 // 3, 1),
        nn.LeakyReLU(),
        nn.Conv2d(latent * 10 // 3, latent * 8 // 3, 1),
        nn.LeakyReLU(),
        nn.Conv2d(latent * 8 // 3, latent * 6 // 3, 1),
    )
