"""The P-frame network of ELF-VC.

last two pictures, last flow --> predictor: motion without bits
frame, last picture, predicted picture, state --> flow encoder --> [bits] --> flow decoder --> state
state --> mask, difference and scale; mask * predicted motion + difference --> compensated picture
frame - compensated --> residue encoder --> [bits] --> residue decoder --> state --> residue

The level is an input of predictor, encoders and decoders.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from vcodecs.contract import CodedFrame, Coding, DecoderGraph, Reference, Stage, VideoCodec
from vcodecs.elf_vc import receiver
from vcodecs.elf_vc.blocks import CELL, LEVELS, LevelWidths, level_vector, to_cells
from vcodecs.elf_vc.networks import (
    DISPLACEMENT,
    PICTURE,
    Decoder,
    Encoder,
    FlowPredictor,
    hyper_decoder,
    hyper_encoder,
)
from vcodecs.elf_vc.presets import OURS, PRESETS, Widths
from vcodecs.elf_vc.scale_space import BLURRED, scale_space_warp
from vcodecs.elf_vc.start import start_as_copier, start_as_hybrid
from vcodecs.entropy import BitEstimator, GaussianBits, noisy, rounded
from vcodecs.layers import has_values

FLOW = ("flow_encoder", "flow_hyper_encoder", "flow_hyper_decoder", "flow_decoder", "flow_prior")
RESIDUE: tuple[str, ...] = ("residue_encoder", "residue_hyper_encoder", "residue_hyper_decoder")
RESIDUE += ("residue_decoder", "residue_prior")
SENDER_ONLY = tuple(name for name in FLOW + RESIDUE if name.endswith("encoder"))
SHARP = 3.0
"""Taken off the scale's raw value: motion starts nearly sharp, at 0.24 of 5 slices."""
GAINS = {"flow": (0.0, 1.4), "residue": (0.7, 3.0)}
"""Logarithms of latents' gains at the lowest and the highest level, before training."""


class ELFVC(VideoCodec):
    """One set of weights for all rates: `rate` is a real number from 0 (fewest bits) to 7."""

    name = "elf_vc"
    presets: ClassVar[Mapping[str, Widths]] = PRESETS

    def __init__(self, preset: str = "official") -> None:
        super().__init__()
        self.preset = preset
        w = self.presets[preset]
        self.flow_predictor = FlowPredictor(w) if w.predictor_depth else None
        predicted = PICTURE + DISPLACEMENT if w.predictor_depth else 0
        self.flow_encoder = Encoder(2 * PICTURE + predicted + w.state, w.flow_encoder, w.motion)
        # Displacement and scale, and with a predictor a mask for either direction.
        head = PICTURE + (DISPLACEMENT if w.predictor_depth else 0)
        self.flow_decoder = Decoder(w.motion, w.flow_decoder, w.state, head)
        self.flow_hyper_encoder = hyper_encoder(w.motion, w.hyper)
        self.flow_hyper_decoder = hyper_decoder(w.hyper, w.motion)
        self.flow_prior = BitEstimator(w.hyper)
        self.residue_encoder = Encoder(2 * PICTURE + w.state, w.residue_encoder, w.latent)
        self.residue_decoder = Decoder(w.latent, w.residue_decoder, w.state, PICTURE)
        self.residue_hyper_encoder = hyper_encoder(w.latent, w.hyper)
        self.residue_hyper_decoder = hyper_decoder(w.hyper, w.latent)
        self.residue_prior = BitEstimator(w.hyper)
        self.flow_widths = LevelWidths(w.motion, *GAINS["flow"]) if w.quantised else None
        self.residue_widths = LevelWidths(w.latent, *GAINS["residue"]) if w.quantised else None
        self.gaussian = GaussianBits()
        if has_values(self):
            (start_as_hybrid if preset in OURS else start_as_copier)(self)

    # ------------------------------------------------------------------ estimation path

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        level = level_vector(rate, frame)
        predicted = self.predict(reference.frame, *self._before(reference), level)
        seen = self.encode_flow(frame, reference.frame, predicted, reference.feature, level)
        motion, own, hyper = self._coded("flow", seen, level)
        bits = {"motion": own, "motion_hyper": hyper}
        compensated, state, flow = self.compensate(
            motion, predicted, reference.frame, reference.feature, level
        )
        known = {"flow": flow, "earlier": reference.frame}
        if upto == "compensated":
            # The frame stands for its own decoded picture, which no one has made.
            return CodedFrame(compensated, Reference(frame, feature=state, state=known), bits)
        seen = self.encode_residue(frame, compensated, state, level)
        latent, own, hyper = self._coded("residue", seen, level)
        decoded, state = self.reconstruct(latent, compensated, state, level)
        shown = decoded if self.training else decoded.clamp(0, 1)
        bits |= {"latent": own, "latent_hyper": hyper}
        return CodedFrame(decoded, Reference(shown, feature=state, state=known), bits)

    def _before(self, reference: Reference) -> tuple[Tensor | None, Tensor | None]:
        """The picture before the reference, and the flow between them; behind an I frame none."""
        return reference.state.get("earlier"), reference.state.get("flow")

    def _coded(self, block: str, latent: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A latent as it is decoded, in units of its quantiser, its bits and its hyper latent's."""
        hyper = self.get_submodule(f"{block}_hyper_encoder")(latent).float()
        hyper_hat = rounded(hyper)
        mean, scale = self.expected(block, hyper_hat, level)
        residual = latent - mean
        symbols = noisy(residual) if self.training else torch.round(residual)
        prior = self.get_submodule(f"{block}_prior")
        own = self.gaussian.of_symbols(symbols, scale)
        of_hyper = prior(noisy(hyper) if self.training else hyper_hat)
        return mean + rounded(residual), own, of_hyper

    # ------------------------------------------------------------------ the sender's functions

    def encode_flow(
        self,
        frame: Tensor,
        before: Tensor,
        predicted: Tensor | None,
        state: Tensor | None,
        level: Tensor,
    ) -> Tensor:
        """The motion latent, not yet rounded, in units of its quantiser."""
        seen = [to_cells(frame), to_cells(before)]
        if predicted is not None:
            sharp = torch.zeros_like(predicted[:, :1])
            moved = scale_space_warp(before, predicted, sharp)
            seen += [to_cells(moved), to_cells(predicted)]
        latent = self.flow_encoder((*seen, self.state_of(state, before)), level)
        return latent.float() * self.gain("flow", level)

    def encode_residue(
        self, frame: Tensor, compensated: Tensor, state: Tensor, level: Tensor
    ) -> Tensor:
        """The latent of what compensation leaves, as `encode_flow`."""
        seen = to_cells(frame - compensated), to_cells(compensated), state
        return self.residue_encoder(seen, level).float() * self.gain("residue", level)

    # ------------------------------------------------------------------ the receiver's functions

    def state_of(self, state: Tensor | None, picture: Tensor) -> Tensor:
        """The state that the last frame left; zeros behind an I frame."""
        if state is not None:
            return state
        rows, columns = picture.shape[2] // CELL, picture.shape[3] // CELL
        channels = self.residue_decoder.head.in_channels
        return picture.new_zeros(picture.shape[0], channels, rows, columns)

    def gain(self, block: str, level: Tensor | None) -> Tensor | float:
        """What a latent is multiplied by before it is rounded; one where widths are not learnt."""
        widths = self.flow_widths if block == "flow" else self.residue_widths
        return 1.0 if widths is None else widths(level)

    def predict(
        self, picture: Tensor, earlier: Tensor | None, flow: Tensor | None, level: Tensor
    ) -> Tensor | None:
        """The motion (N, 2, H, W) that is expected; None without a predictor."""
        if self.flow_predictor is None:
            return None
        earlier = picture if earlier is None else earlier
        flow = torch.zeros_like(picture) if flow is None else flow
        known = [to_cells(x) for x in (picture, earlier, flow)]
        return self.flow_predictor(known, level).float()

    def expected(
        self, block: str, hyper: Tensor, level: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Means and scales of a latent, in units of its quantiser."""
        mean, scale = self.get_submodule(f"{block}_hyper_decoder")(hyper).float().chunk(2, 1)
        gain = self.gain(block, level)
        return mean * gain, scale * gain

    def compensate(
        self,
        motion: Tensor,
        predicted: Tensor | None,
        picture: Tensor,
        state: Tensor | None,
        level: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The compensated picture, the state, and the flow (N, 3, H, W): displacement, depth."""
        motion = motion / self.gain("flow", level)
        following, made = self.flow_decoder(motion, self.state_of(state, picture), level)
        made = made.float()
        displacement, depth = made[:, :2], BLURRED * torch.sigmoid(made[:, 2:3] - SHARP)
        if predicted is not None:
            displacement = torch.sigmoid(made[:, 3:]) * predicted + displacement
        compensated = scale_space_warp(picture, displacement, depth)
        return compensated, following, torch.cat((displacement, depth), dim=1)

    def reconstruct(
        self, latent: Tensor, compensated: Tensor, state: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The picture, not yet clamped, and the state for the next frame."""
        latent = latent / self.gain("residue", level)
        following, residue = self.residue_decoder(latent, state, level)
        return compensated + residue.float(), following

    # ------------------------------------------------------------------ contract

    def rates(self) -> tuple[float | None, ...]:
        return tuple(float(level) for level in range(LEVELS))

    def _present(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if getattr(self, name) is not None)

    def _flow(self) -> tuple[str, ...]:
        return (*self._present("flow_predictor"), *FLOW, *self._present("flow_widths"))

    def _residue(self) -> tuple[str, ...]:
        return (*RESIDUE, *self._present("residue_widths"))

    def decoder_modules(self) -> tuple[str, ...]:
        return tuple(n for n in self._flow() + self._residue() if n not in SENDER_ONLY)

    def stages(self) -> tuple[Stage, ...]:
        """The paper trains everything over three P frames at once; the others come before it."""
        flow, residue = self._flow(), self._residue()
        motion, latent = ("motion", "motion_hyper"), ("latent", "latent_hyper")
        return (
            Stage("flow", flow, picture="compensated", streams=motion, frames=2),
            Stage("residue", residue, streams=latent, frames=1),
            Stage("joint", flow + residue, frames=1),
            Stage("unrolled", flow + residue, frames=3),
        )

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return (("feature", "residue_decoder.last.merge"),)

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """No weights were ever released: ours have these names."""
        return dict(state)

    def coding(self) -> Coding:
        return receiver.coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        return receiver.graphs(self, height, width)
