"""Toy codecs with something that channel groups have to leave alone, and say why."""

import torch
from torch import Tensor, nn
from toys import LATENT, STRIDE, Carried, Toy

from vcodecs.contract import Reference
from vcodecs.layers import conv, deconv


class CarriedUndeclared(Carried):
    """The same, without saying so."""

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return ()


class WronglyDeclared(Carried):
    """The declared layer is not the one that makes the field."""

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return (("feature", "mix.0"),)


class AddedSigmoid(Toy):
    """Makes something of zeros: sigmoid(0) is a half."""

    def build(self) -> None:
        self.wide = conv(LATENT, 6, 3)
        self.up = nn.Sequential(deconv(6, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(torch.sigmoid(self.wide(latent)))


class SlicedAtFixedPlace(Toy):
    """The first five channels, counted in the code, go another way than the other three."""

    def build(self) -> None:
        self.wide = conv(LATENT, 8, 3)
        self.left = deconv(5, 4, 3)
        self.right = deconv(3, 4, 3)
        self.up = nn.Sequential(nn.ReLU(), deconv(4, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        x = self.wide(latent)
        return self.up(self.left(x[:, :5]) + self.right(x[:, 5:]))


class SplitByNumber(Toy):
    """Equal halves, but of a width that is written into the code."""

    def build(self) -> None:
        self.wide = conv(LATENT, 12, 3)
        self.up = nn.Sequential(deconv(6, 4, 3), nn.ReLU(), deconv(4, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        a, b = self.wide(latent).split(6, dim=1)
        return self.up(a * b)


class Offset(Toy):
    """A constant for each channel is added, which masking would leave."""

    def build(self) -> None:
        self.register_buffer("offset", torch.rand(1, 6, 1, 1))
        self.wide = conv(LATENT, 6, 3)
        self.up = nn.Sequential(deconv(6, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(self.wide(latent) + self.offset)


class PictureReadAgain(Toy):
    """The picture is shown, and read by another layer as well."""

    def build(self) -> None:
        self.up = nn.Sequential(deconv(LATENT, 5, 3), nn.ReLU(), deconv(5, 3, 3))
        self.look = nn.Conv2d(3, 4, STRIDE, STRIDE)
        self.mix = conv(LATENT + 4, LATENT, 3)

    def decode(self, latent: Tensor, reference: Reference) -> tuple[Tensor, dict]:
        if reference.feature is not None:
            latent = self.mix(torch.cat((latent, reference.feature), dim=1))
        picture = self.up(latent)
        return picture, {"feature": self.look(picture)}

    def carried(self) -> dict[str, int]:
        return {"feature": self.look.out_channels}

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return (("feature", "look"),)


AWKWARD = (
    CarriedUndeclared,
    AddedSigmoid,
    SlicedAtFixedPlace,
    SplitByNumber,
    Offset,
    PictureReadAgain,
)
