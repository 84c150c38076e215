"""The I-frame network of DCVC-HEM (IntraNoAR): a picture codec behind the same contract.

It reads nothing of its reference, so a "P frame" of it is an I frame, and everything that trains,
sparsifies, exports and measures P-frame codecs works on it as well. As the I frames of an
evaluation it is `network:checkpoint=...` (`vcodecs.intra`).
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
    analysis,
    hyper_decoder,
    hyper_encoder,
    synthesis,
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
from vcodecs.dcvc_hem.start import start_intra
from vcodecs.entropy import BitEstimator, GaussianBits, noisy, rounded
from vcodecs.layers import Bound, conv, has_values


@dataclass(frozen=True)
class IntraWidths:
    """Channels: of the latent, of the layers behind it, of the hyper latent, inside the priors
    (a unit), of what is refined, of the UNet's scales, of the layers before the latent (as many
    as behind it where absent)."""

    latent: int = 192
    width: int = 192
    hyper: int = 192
    prior: int = 192
    decoded: int = 16
    unet: tuple[int, int, int] = (32, 64, 128)
    encoder: int | None = None


ENCODER = ("enc", "hyper_enc")
DECODER = ("hyper_dec", "y_prior_fusion", "y_spatial_prior", "dec", "refine", "bit_estimator_z")


class DCVCHEMIntra(VideoCodec):
    """One set of weights for all rates: `rate` is a real number from 0 (fewest bits) to 3."""

    name = "dcvc_hem_intra"
    presets: ClassVar[Mapping[str, IntraWidths]] = {
        "official": IntraWidths(),
        "base": IntraWidths(192, 192, 48, 32, 16, (32, 64, 112), 96),
        "small": IntraWidths(192, 48, 24, 10, 16, (16, 16, 32)),
        "tiny": IntraWidths(8, 8, 8, 8, 8, (8, 8, 8)),
    }

    def __init__(self, preset: str = "official") -> None:
        super().__init__()
        self.preset = preset
        w = self.presets[preset]
        n, p = w.latent, w.prior
        self.q_basic = nn.Parameter(torch.ones(1, n, 1, 1))
        self.q_scale = first_scales()
        self.enc = analysis(3, w.encoder or w.width, n)
        self.hyper_enc = hyper_encoder(n, w.hyper)
        self.hyper_dec = hyper_decoder(w.hyper, p, n)
        self.y_prior_fusion = prior_network(2 * n, 3 * p, 3 * p, 3 * n)
        self.y_spatial_prior = prior_network(4 * n, 3 * p, 3 * p, 2 * n)
        self.dec = synthesis(n, w.width, w.decoded)
        self.refine = nn.Sequential(UNet(w.decoded, w.decoded, w.unet), conv(w.decoded, 3, 3))
        self.bit_estimator_z = BitEstimator(w.hyper)
        self.gaussian = GaussianBits()
        self.step_bound = Bound(SMALLEST_STEP)
        if preset != "official" and has_values(self):
            start_intra(self)

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The official estimation path; `reference` is not read."""
        divisor = self.quantiser(rate)
        latent, hyper = self.encode_picture(frame, divisor)
        hyper_hat = rounded(hyper)
        prior = self.latent_parameters(hyper_hat)
        coded = quantise(latent, prior, self.y_spatial_prior, self.training)
        bits = {
            "latent": self.gaussian.of_symbols(coded.symbols, coded.scale),
            "latent_hyper": self.bit_estimator_z(noisy(hyper) if self.training else hyper_hat),
        }
        decoded = self.reconstruct(coded.latent * divisor)
        return CodedFrame(
            decoded, Reference(decoded if self.training else decoded.clamp(0, 1)), bits
        )

    # ------------------------------------------------------------------ the encoder's functions

    def quantiser(self, rate: float | Tensor | None) -> Tensor:
        """The divisor of the latent (N or 1, C, 1, 1)."""
        return quantiser(self.q_basic, self.q_scale, rate, self.step_bound)

    def encode_picture(self, frame: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
        """The divided latent and its hyper latent, neither rounded yet."""
        latent = self.enc(frame).float() / divisor
        return latent, self.hyper_enc(latent)

    # ------------------------------------------------------------------ the receiver's functions

    def latent_parameters(self, hyper: Tensor) -> Parameters:
        """The hyperprior's expectation of the latent."""
        return parameters(self.y_prior_fusion(self.hyper_dec(hyper)), self.step_bound)

    def reconstruct(self, latent: Tensor) -> Tensor:
        """The picture, not yet clamped."""
        return self.refine(self.dec(latent)).float()

    # ------------------------------------------------------------------ contract

    def rates(self) -> tuple[float, ...]:
        return RATES

    def decoder_modules(self) -> tuple[str, ...]:
        return DECODER

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("joint", (*ENCODER, *DECODER, "q_basic", "q_scale")),)

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def coding(self) -> Coding:
        return receiver.intra_coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        return receiver.intra_graphs(self, height, width)
