"""The P-frame network of FVC.

reference, frame --> features of half the size --> motion encoder --> [bits] --> offsets
reference's features --> fetched by the offsets, refined: aligned features
frame's features - aligned --> residual encoder --> [bits] --> residual decoder, + aligned
--> (fusion with the features of up to three decoded pictures) --> picture
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from vcodecs.contract import (
    CodedFrame,
    Coding,
    DecoderGraph,
    Reference,
    Stage,
    VideoCodec,
)
from vcodecs.entropy import BitEstimator, NormalBits, noisy, rounded
from vcodecs.fvc import receiver
from vcodecs.fvc.fusion import Fusion
from vcodecs.fvc.networks import (
    Aligner,
    Analysis,
    EntropyParameters,
    FeatureDecoder,
    FeatureEncoder,
    HyperDecoder,
    HyperEncoder,
    Synthesis,
)
from vcodecs.fvc.start import start_as_hybrid
from vcodecs.layers import has_values


@dataclass(frozen=True)
class Widths:
    """Channels: of features (a multiple of 8), of the motion latent, of the residual's latent, of
    the layers around both, of hyper latents, inside the parameter networks.

    `fusion`: as in the paper, and not in what was released. `encoder`, `offsets`: of the layers
    before both latents and of those behind the motion latent, `width` where absent.
    """

    feature: int = 64
    motion: int = 128
    latent: int = 128
    width: int = 128
    hyper: int = 128
    parameters: int = 512
    fusion: bool = False
    encoder: int | None = None
    offsets: int | None = None


FEATURES = ("Encoder", "Decoder")
MOTION: tuple[str, ...] = ("aligner.offset_conv1", "aligner.offset_conv3", "aligner.offset_encoder")
MOTION += ("aligner.offset_decoder", "aligner.deformable_convolution")
MOTION += ("aligner.refine_conv1", "aligner.refine_conv2")
MOTION += ("OffsetPriorEncoder", "OffsetPriorDecoder")
MOTION += ("EntropyCoding_offsetf", "EntropyCoding_offsetz")
RESIDUAL = ("resEncoder", "resDecoder")
RESIDUAL_PRIOR: tuple[str, ...] = ("resPriorEncoder", "resPriorDecoder")
RESIDUAL_PRIOR += ("EntropyCoding_residualf", "EntropyCoding_residualz")
ENCODER_ONLY: tuple[str, ...] = (
    "aligner.offset_conv1",
    "aligner.offset_conv3",
    "aligner.offset_encoder",
)
ENCODER_ONLY += ("OffsetPriorEncoder", "resEncoder", "resPriorEncoder")

AUTOENCODER_SHARE = 0.1
"""Weight of the features' own picture, coded without any loss, beside the decoded one."""


class FVC(VideoCodec):
    """One lambda a model; all that is kept between frames are decoded pictures."""

    name = "fvc"
    presets: ClassVar[Mapping[str, Widths]] = {
        "official": Widths(),
        "base": Widths(64, 64, 128, 128, 48, 96, encoder=64, offsets=112),
        "small": Widths(64, 24, 96, 40, 24, 64),
        "fusion": Widths(24, 24, 96, 32, 24, 64, fusion=True),
        "tiny": Widths(8, 4, 6, 5, 4, 8),
    }

    def __init__(self, preset: str = "official") -> None:
        super().__init__()
        self.preset = preset
        w = self.presets[preset]
        self.Encoder = FeatureEncoder(w.feature)
        self.Decoder = FeatureDecoder(w.feature)
        encoder, offsets = w.encoder or w.width, w.offsets or w.width
        self.aligner = Aligner(w.feature, encoder, w.motion, offsets)
        self.OffsetPriorEncoder = HyperEncoder(w.motion, w.hyper)
        self.OffsetPriorDecoder = HyperDecoder(w.hyper, w.motion)
        self.EntropyCoding_offsetf = EntropyParameters(w.motion, w.parameters)
        self.EntropyCoding_offsetz = BitEstimator(w.hyper, floored=False)
        self.resEncoder = Analysis(w.feature, encoder, w.latent)
        self.resDecoder = Synthesis(w.latent, w.width, w.feature)
        self.resPriorEncoder = HyperEncoder(w.latent, w.hyper)
        self.resPriorDecoder = HyperDecoder(w.hyper, w.latent)
        self.EntropyCoding_residualf = EntropyParameters(w.latent, w.parameters)
        self.EntropyCoding_residualz = BitEstimator(w.hyper, floored=False)
        self.fusion = Fusion(w.feature) if w.fusion else None
        self.normal = NormalBits()
        if preset != "official" and has_values(self):
            start_as_hybrid(self)

    # ------------------------------------------------------------------ estimation path

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The official estimation path; both latents are rounded plainly."""
        before, now = self.Encoder(reference.frame), self.Encoder(frame)
        aligned, motion_bits = self._code_motion(before, now)
        auxiliary = None
        if self.training:
            seen = self.Decoder(now).float()
            auxiliary = AUTOENCODER_SHARE * F.mse_loss(seen, frame)
        if upto == "aligned":
            return CodedFrame(self.Decoder(aligned).float(), reference, motion_bits, auxiliary)
        latent, latent_bits = self._code_residual(now, aligned)
        earlier = self._earlier(reference)
        decoded = self.reconstruct(latent, aligned, before, earlier)
        kept = decoded if self.training else decoded.clamp(0, 1)
        following = None if earlier is None else receiver.shifted(reference.frame, earlier)
        return CodedFrame(decoded, Reference(kept, following), motion_bits | latent_bits, auxiliary)

    def _code_motion(self, before: Tensor, now: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        latent, hyper = self.encode_motion(before, now)
        hyper_hat = rounded(hyper)
        bits = {
            "motion": self.normal(latent, *self.motion_parameters(hyper_hat)),
            "motion_hyper": self.EntropyCoding_offsetz(
                noisy(hyper) if self.training else hyper_hat
            ),
        }
        return self.aligner.align(before, rounded(latent)), bits

    def _code_residual(self, now: Tensor, aligned: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        latent, hyper = self.encode_residual(now, aligned)
        hyper_hat = rounded(hyper)
        bits = {
            "latent": self.normal(latent, *self.latent_parameters(hyper_hat)),
            "latent_hyper": self.EntropyCoding_residualz(
                noisy(hyper) if self.training else hyper_hat
            ),
        }
        return rounded(latent), bits

    def _earlier(self, reference: Reference) -> Tensor | None:
        """The two pictures before the reference (N, 6, H, W), where they are looked at.

        Behind an I frame there are none: its own picture stands in for them.
        """
        if self.fusion is None or reference.feature is not None:
            return reference.feature
        return torch.cat((reference.frame, reference.frame), dim=1)

    # ------------------------------------------------------------------ the encoder's functions

    def encode_motion(self, before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """The latent of the offsets, and its hyper latent, neither rounded yet."""
        latent = self.aligner.encode(before, now)
        return latent, self.OffsetPriorEncoder(latent)

    def encode_residual(self, now: Tensor, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """The latent of what alignment leaves, and its hyper latent, neither rounded yet."""
        latent = self.resEncoder(now - aligned)
        return latent, self.resPriorEncoder(latent)

    # ------------------------------------------------------------------ the receiver's functions

    def motion_parameters(self, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the motion latent."""
        return self.EntropyCoding_offsetf(self.OffsetPriorDecoder(hyper))

    def latent_parameters(self, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the residual's latent."""
        return self.EntropyCoding_residualf(self.resPriorDecoder(hyper))

    def reconstruct(
        self, latent: Tensor, aligned: Tensor, before: Tensor | None, earlier: Tensor | None
    ) -> Tensor:
        """The picture, not yet clamped.

        Only fusion reads `before`, the reference's features, and `earlier`, pictures.
        """
        feature = aligned + self.resDecoder(latent)
        if self.fusion is not None:
            assert before is not None and earlier is not None
            features = [self.Encoder(picture) for picture in earlier.chunk(2, 1)]
            feature = self.fusion(feature, (before, *features))
        return self.Decoder(feature).float()

    # ------------------------------------------------------------------ contract

    def decoder_modules(self) -> tuple[str, ...]:
        return tuple(name for name in self._everything() if name not in ENCODER_ONLY)

    def _everything(self) -> tuple[str, ...]:
        return FEATURES + MOTION + RESIDUAL + RESIDUAL_PRIOR + self._fusing()

    def _fusing(self) -> tuple[str, ...]:
        return () if self.fusion is None else ("fusion",)

    def stages(self) -> tuple[Stage, ...]:
        """As the official training: the residual is first learnt, then paid for."""
        shown = FEATURES + RESIDUAL + self._fusing()
        return (
            Stage(
                "alignment",
                FEATURES + MOTION,
                picture="aligned",
                streams=("motion", "motion_hyper"),
            ),
            Stage("reconstruction", shown, streams=()),
            Stage("residual", shown + RESIDUAL_PRIOR, streams=("latent", "latent_hyper")),
            Stage("joint", self._everything()),
            Stage("unrolled", self._everything(), frames=3),
        )

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same names. What belongs to modules that this network has not got is left out.

        The official loader ignores every unknown tensor. Here one inside a known module, or any
        beside a missing one, stays and is refused: it may be what is missing by another name.
        """
        if not self.state_dict().keys() <= state.keys():
            return dict(state)
        children = {name for name, _ in self.named_children()}
        return {key: value for key, value in state.items() if key.split(".")[0] in children}

    def coding(self) -> Coding:
        return receiver.coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        return receiver.graphs(self, height, width)
