"""The P-frame network of SlimVC at all widths, or at one.

frame --> encoder --> latent;  latent, last latent --> hyper encoder --> [bits] --> hyper decoder
last latent --> temporal prior;  both --> mean and scale of the latent's residual --> [bits]
last latent + residual --> decoder --> picture

Nothing of the frame before but its latent is read, and the picture is as far from the original as
rounding takes it, whatever was before: errors do not add up.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from lvc.errors import UserError
from vcodecs.contract import CodedFrame, Coding, DecoderGraph, Reference, Stage, VideoCodec
from vcodecs.entropy import GaussianBits, noisy, rounded
from vcodecs.layers import has_values
from vcodecs.slimvc import networks, receiver
from vcodecs.slimvc.layers import Maker, extract, select
from vcodecs.slimvc.presets import PRESETS, Widths
from vcodecs.slimvc.start import start_as_transform

TRANSFORMS = ("encoder", "decoder")
PICTURES = ("picture_hyper_encoder", "picture_hyper_decoder", "picture_prior")
ENTROPY = ("hyper_encoder", "hyper_decoder", "temporal_prior", "entropy_parameters", "hyper_prior")


class SlimVC(VideoCodec):
    """All widths: `rate` is a number from 0 to 4, the nearest width's. Of one width: none."""

    name = "slimvc"
    presets: ClassVar[Mapping[str, Widths]] = PRESETS
    multiple = 48

    def __init__(self, preset: str = "full_interfaces") -> None:
        super().__init__()
        self.preset = preset
        w = self.presets[preset]
        self.levels = len(w.factors)
        self.sizes = sizes = [w.at(factor) for factor in w.factors]
        make = Maker(self.levels)
        self.encoder = networks.encoder(make, sizes)
        self.decoder = networks.decoder(make, sizes)
        self.hyper_encoder = networks.hyper_encoder(make, sizes)
        self.hyper_decoder = networks.hyper_decoder(make, sizes)
        self.temporal_prior = networks.temporal_prior(make, sizes)
        self.entropy_parameters = networks.entropy_parameters(make, sizes)
        self.hyper_prior = make.prior([(s.hyper_latent,) for s in sizes])
        self.picture_hyper_encoder = networks.picture_hyper_encoder(make, sizes)
        self.picture_hyper_decoder = networks.picture_hyper_decoder(make, sizes)
        self.picture_prior = make.prior([(s.latent,) for s in sizes])
        self.gaussian = GaussianBits()
        if preset.startswith(("small", "tiny")) and has_values(self):
            start_as_transform(self)

    # ------------------------------------------------------------------ estimation path

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """The estimation path; frames of a batch may have different widths."""
        if self.levels == 1:
            return self._code(frame, reference, upto)
        each = self._levels_of(rate, len(frame))
        parts = []
        for level in sorted(set(each)):
            mine = [i for i, other in enumerate(each) if other == level]
            select(self, level)
            before = self._part_of(reference, mine, level)
            parts.append((mine, self._code(frame[mine], before, upto)))
        select(self, self.levels - 1)
        return self._joined(parts, each)

    def _code(self, frame: Tensor, reference: Reference, upto: str | None) -> CodedFrame:
        latent = self.encoder(frame).float()
        if upto == "picture":
            return self._code_picture(latent)
        before = reference.latent
        before = self.of_picture(reference.frame) if before is None else before
        hyper = self.hyper_encoder(torch.cat((latent, before), dim=1)).float()
        hyper_hat = rounded(hyper)
        mean, scale = self.expected(self.temporal_prior(before), hyper_hat)
        residual = latent - before - mean
        symbols = noisy(residual) if self.training else torch.round(residual)
        bits = {
            "latent": self.gaussian.of_symbols(symbols, scale),
            "latent_hyper": self.hyper_prior(noisy(hyper) if self.training else hyper_hat),
        }
        decoded = before + mean + rounded(residual)
        picture = self.decoder(decoded).float()
        shown = picture if self.training else picture.clamp(0, 1)
        # Pairs of frames are all that is trained on: what was before is as good as given.
        return CodedFrame(picture, Reference(shown.detach(), latent=decoded.detach()), bits)

    def _code_picture(self, latent: Tensor) -> CodedFrame:
        """A picture by itself: what the transforms are trained with."""
        hyper = self.picture_hyper_encoder(latent).float()
        mean, scale = self.picture_hyper_decoder(rounded(hyper)).float().chunk(2, 1)
        bits = {
            "picture": self.gaussian(latent, mean, scale),
            "picture_hyper": self.picture_prior(noisy(hyper) if self.training else rounded(hyper)),
        }
        picture = self.decoder(mean + rounded(latent - mean)).float()
        return CodedFrame(picture, Reference(picture.detach()), bits)

    # ------------------------------------------------------------------ the receiver's functions

    def of_picture(self, picture: Tensor) -> Tensor:
        """The latent that stands for the last one behind a picture of another codec or width."""
        return torch.round(self.encoder(picture).float()).detach()

    def expected(self, temporal: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of the residual to the last latent."""
        joined = torch.cat((temporal, self.hyper_decoder(hyper)), dim=1)
        mean, scale = self.entropy_parameters(joined).float().chunk(2, 1)
        return mean, scale

    # ------------------------------------------------------------------ widths

    def extract(self, width: float) -> "SlimVC":
        """A codec by itself of one of the widths (0.25 ... 1), which codes bit for bit alike."""
        factors = self.presets[self.preset].factors
        if width not in factors:
            raise UserError(f"width {width:g}: there are {', '.join(f'{f:g}' for f in factors)}")
        return self.at_level(factors.index(width))

    def at_level(self, level: int) -> "SlimVC":
        if self.levels == 1:
            return self
        factor = self.presets[self.preset].factors[level]
        with next(self.parameters()).device:
            alone = SlimVC(f"{self.preset}@{factor:g}")
        extract(self, alone, level)
        return alone.train(self.training)

    def inside(self) -> tuple[str, ...]:
        name, _, width = self.preset.partition("@")
        return (name,) if width else ()

    def out_of(self, whole: VideoCodec) -> VideoCodec:
        assert isinstance(whole, SlimVC)
        return whole.extract(self.presets[self.preset].factors[0])

    def _levels_of(self, rate: float | Tensor | None, count: int) -> list[int]:
        """The level of each frame of a batch."""
        last = self.levels - 1
        if rate is None:
            raise UserError(f"this codec serves many rates: give one from 0 to {last}")
        rates = torch.as_tensor(rate, dtype=torch.float32).reshape(-1).tolist()
        for one in rates:
            if not 0 <= one <= last:
                raise UserError(f"rate {one:g} is out of range: give one from 0 to {last}")
        levels = [int(one + 0.5) for one in rates]
        return levels * count if len(levels) == 1 else levels

    def _part_of(self, reference: Reference, mine: list[int], level: int) -> Reference:
        """The reference of a level's frames: a latent of another width is made anew."""
        frame = reference.frame[mine]
        if reference.latent is None:
            return Reference(frame)
        same = reference.state["level"].flatten()[mine] == level
        latent = reference.latent[mine, : self.sizes[level].latent]
        if not bool(same.all()):
            latent = torch.where(same.view(-1, 1, 1, 1), latent, self.of_picture(frame))
        return Reference(frame, latent=latent)

    def _joined(self, parts: list[tuple[list[int], CodedFrame]], each: list[int]) -> CodedFrame:
        """One batch of the parts, in the frames' order; latents with zeros where there is none."""
        order = torch.tensor([i for mine, _ in parts for i in mine]).argsort()
        coded = [part for _, part in parts]
        bits = {key: torch.cat([part.bits[key] for part in coded])[order] for key in coded[0].bits}
        frame = torch.cat([part.frame for part in coded])[order]
        shown = torch.cat([part.reference.frame for part in coded])[order]
        if any(part.reference.latent is None for part in coded):
            return CodedFrame(frame, Reference(shown), bits)
        widest = self.sizes[-1].latent
        latents = torch.cat([_widened(part.reference.latent, widest) for part in coded])[order]
        level = torch.tensor(each, dtype=torch.float32, device=frame.device).view(-1, 1, 1, 1)
        return CodedFrame(frame, Reference(shown, latent=latents, state={"level": level}), bits)

    # ------------------------------------------------------------------ contract

    def rates(self) -> tuple[float | None, ...]:
        return (None,) if self.levels == 1 else tuple(float(i) for i in range(self.levels))

    def decoder_modules(self) -> tuple[str, ...]:
        receiving = tuple(name for name in ENTROPY if name != "hyper_encoder")
        return (*TRANSFORMS, *receiving)

    def stages(self) -> tuple[Stage, ...]:
        pictures, bits = ("picture", "picture_hyper"), ("latent", "latent_hyper")
        return (
            Stage("pictures", (*TRANSFORMS, *PICTURES), picture="picture", streams=pictures),
            Stage("video", ENTROPY, streams=bits, frames=1),
            Stage("joint", (*TRANSFORMS, *ENTROPY), streams=bits, frames=1),
        )

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def coding(self) -> Coding:
        self._one_width()
        return receiver.coding(self)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        self._one_width()
        return receiver.graphs(self, height, width)

    def _one_width(self) -> None:
        if self.levels > 1:
            widest = f"{self.preset}@{self.presets[self.preset].factors[-1]:g}"
            raise UserError(
                f"slimvc {self.preset} has {self.levels} widths, and what is asked for is made of "
                f"one: `extract` it, or take a preset such as {widest}"
            )


def _widened(latent: Tensor | None, channels: int) -> Tensor:
    assert latent is not None
    zeros = latent.new_zeros(latent.shape[0], channels - latent.shape[1], *latent.shape[2:])
    return torch.cat((latent, zeros), dim=1)
