"""Small codecs for tests of rules that are more general than one real codec.

A toy codes a frame as one rounded latent at a quarter of the frame's sides. Its subclasses say
how the decoder makes the picture from it; what they show is in their names.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvc.pictures import round_up
from vcodecs.contract import CodedFrame, DecoderGraph, GraphTensor, Reference, Stage, VideoCodec
from vcodecs.deform import DeformableConv
from vcodecs.layers import GDN, MaskedConv, ResBlock, SubpelConv, conv, deconv
from vcodecs.motion import warp

LATENT = 6
STRIDE = 4


def shaken(codec: VideoCodec, seed: int = 0) -> VideoCodec:
    """`codec` in eval mode with random weights under which every channel matters."""
    generator = _generator(seed)
    with torch.no_grad():
        for layer in codec.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                spread = layer.weight[0].numel() ** -0.5
                layer.weight.copy_(spread * torch.randn(layer.weight.shape, generator=generator))
                if layer.bias is not None:
                    layer.bias.copy_(0.2 * torch.randn(layer.bias.shape, generator=generator))
    return codec.eval()


def clip(frames: int, side: int = 64, seed: int = 0) -> Tensor:
    """(frames, 3, side, side) of noise, smooth enough to be moved."""
    noise = torch.rand(frames, 3, side // 4, side // 4, generator=_generator(seed))
    return F.interpolate(noise, scale_factor=4, mode="bilinear").contiguous()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Toy(VideoCodec):
    """`decode` makes the picture, `predict` optionally mean and scale of the latent."""

    name = "toy"
    presets: Mapping[str, object] = {"only": None}

    def __init__(self) -> None:
        super().__init__()
        self.preset = "only"
        self.encoder = nn.Conv2d(3, LATENT, STRIDE, STRIDE)
        self.build()

    def build(self) -> None:
        """Make the layers of the decoder."""
        raise NotImplementedError

    def decode(self, latent: Tensor, reference: Reference) -> Tensor | tuple[Tensor, dict]:
        """The picture; with it what the next frame's reference holds besides, by field."""
        raise NotImplementedError

    def charge(self, latent: Tensor) -> Tensor:
        """Something like bits (N,)."""
        return latent.abs().flatten(1).sum(1)

    def code(
        self, frame: Tensor, reference: Reference, rate: float | None, upto: str | None
    ) -> CodedFrame:
        latent = torch.round(4 * self.encoder(frame - reference.frame))
        decoded = self.decode(latent, reference)
        picture, kept = decoded if isinstance(decoded, tuple) else (decoded, {})
        shown = picture if self.training else picture.clamp(0, 1)
        return CodedFrame(picture, Reference(shown, **kept), {"latent": self.charge(latent)})

    def decoder_modules(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.named_children() if name != "encoder")

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("joint", tuple(name for name, _ in self.named_children())),)

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        size = round_up(height), round_up(width)
        inputs = {"latent": GraphTensor(LATENT, STRIDE), "reference": GraphTensor(3, 1)}
        inputs |= {f"carried_{k}": GraphTensor(c, STRIDE) for k, c in self.carried().items()}

        def receive(codec: Toy, latent: Tensor, previous: Tensor, *fields: Tensor) -> Tensor:
            parts = dict(zip(codec.carried(), fields, strict=True))
            decoded = codec.decode(latent, Reference(previous, **parts))
            picture = decoded[0] if isinstance(decoded, tuple) else decoded
            return picture, codec.charge(latent)

        return (DecoderGraph("picture", self, receive, inputs, ("frame", "bits"), size),)

    def carried(self) -> dict[str, int]:
        """Channels of what the reference holds besides the picture, by field."""
        return {}


class SubpelChain(Toy):
    """Sub-pixel convolutions one after another."""

    def build(self) -> None:
        self.up = nn.Sequential(SubpelConv(LATENT, 6), SubpelConv(6, 5), conv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(latent)


class Normalised(Toy):
    """Transposed convolutions with IGDN, then GDN, between."""

    def build(self) -> None:
        self.up = nn.Sequential(
            deconv(LATENT, 6, 3), GDN(6, inverse=True), deconv(6, 5, 5), GDN(5), conv(5, 3, 3)
        )

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(latent)


class Warped(Toy):
    """Features of the reference, moved by a two-step motion, and a residual in full size."""

    def build(self) -> None:
        self.motion = nn.Sequential(deconv(LATENT, 5, 3), nn.LeakyReLU(), deconv(5, 2, 3))
        self.refine = nn.Sequential(conv(2, 4, 3), nn.ReLU(), conv(4, 2, 3))
        self.features = conv(3, 6, 3)
        self.picture = nn.Sequential(ResBlock(6), conv(6, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        flow = self.motion(latent)
        flow = flow + self.refine(flow)
        return self.picture(warp(self.features(reference.frame), flow))


class Joined(Toy):
    """Features between the raw reference picture and coordinates made inside forward."""

    def build(self) -> None:
        self.up = nn.Sequential(deconv(LATENT, 5, 3), nn.ReLU(), deconv(5, 6, 3))
        self.picture = nn.Sequential(conv(11, 6, 3), nn.ReLU(), conv(6, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        frame = reference.frame
        rows = torch.arange(frame.shape[2], device=frame.device) / frame.shape[2]
        columns = torch.arange(frame.shape[3], device=frame.device) / frame.shape[3]
        place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        place = place.expand(frame.shape[0], -1, -1, -1)
        joined = torch.cat((frame, place, self.up(latent)), dim=1)
        return self.picture(joined)


class AddedToRawField(Toy):
    """The latent is carried raw, and features are added to it: those cannot shrink."""

    def build(self) -> None:
        self.mix = nn.Sequential(conv(LATENT, 8, 3), nn.ReLU(), conv(8, LATENT, 3))
        self.up = nn.Sequential(deconv(LATENT, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> tuple[Tensor, dict]:
        x = self.mix(latent)
        if reference.latent is not None:
            x = x + reference.latent
        return self.up(x), {"latent": latent}

    def carried(self) -> dict[str, int]:
        return {"latent": LATENT}


class Gated(Toy):
    """Both halves of a tensor multiplied: y = a * b."""

    def build(self) -> None:
        self.wide = conv(LATENT, 12, 3)
        self.up = nn.Sequential(deconv(6, 4, 3), nn.ReLU(), deconv(4, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        a, b = self.wide(latent).chunk(2, dim=1)
        return self.up(a * b)


class Halved(Toy):
    """Parts of a tensor used apart, one of them twice, the last one first."""

    def build(self) -> None:
        self.wide = nn.Sequential(conv(LATENT, 15, 3), nn.LeakyReLU())
        self.last = deconv(5, 4, 3)
        self.first = deconv(5, 4, 3)
        self.again = deconv(5, 4, 3)
        self.unused = conv(LATENT, 5, 1)
        self.up = nn.Sequential(nn.ReLU(), deconv(8, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        a, b, c = torch.split(self.wide(latent), self.wide[0].out_channels // 3, dim=1)
        late = self.last(c)
        return self.up(torch.cat((late + self.again(a), self.first(b) + self.again(a)), dim=1))


class HalvedBesides(Toy):
    """One half of a tensor is added to another layer's output, the other one read alone."""

    def build(self) -> None:
        self.beside = conv(LATENT, 5, 3)
        self.wide = conv(LATENT, 10, 3)
        self.left = deconv(5, 4, 3)
        self.right = deconv(5, 4, 3)
        self.up = nn.Sequential(nn.ReLU(), deconv(4, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        a, b = self.wide(latent).chunk(2, 1)
        return self.up(self.left(self.beside(latent) + a) + self.right(b))


class AutoRegressive(Toy):
    """A masked convolution over the latent predicts its scales and helps to decode it."""

    def build(self) -> None:
        self.spatial = MaskedConv(LATENT, 7)
        self.scales = nn.Sequential(conv(7, 5, 1), nn.ReLU(), conv(5, LATENT, 1))
        self.up = nn.Sequential(deconv(LATENT + 7, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def charge(self, latent: Tensor) -> Tensor:
        scales = F.softplus(self.scales(self.spatial(latent)))
        return (latent.abs() / scales).flatten(1).sum(1)

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(torch.cat((latent, self.spatial(latent)), dim=1))


class Carried(Toy):
    """A feature goes through the reference; the first P frame makes its own from the picture."""

    def build(self) -> None:
        self.from_picture = nn.Conv2d(3, 6, STRIDE, STRIDE)
        self.from_feature = conv(7, 6, 1)
        self.mix = nn.Sequential(conv(LATENT + 6, 8, 3), nn.ReLU(), conv(8, 7, 3))
        self.up = nn.Sequential(deconv(7, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> tuple[Tensor, dict]:
        if reference.feature is None:
            before = self.from_picture(reference.frame)
        else:
            before = self.from_feature(reference.feature)
        feature = self.mix(torch.cat((latent, before), dim=1))
        return self.up(feature), {"feature": feature}

    def carried(self) -> dict[str, int]:
        return {"feature": self.mix[2].out_channels}

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        return (("feature", "mix.2"),)


class CarriedSum(Carried):
    """The carried feature is added up, frame after frame: it is tied to itself."""

    def build(self) -> None:
        self.from_picture = nn.Conv2d(3, 7, STRIDE, STRIDE)
        self.mix = nn.Sequential(conv(LATENT + 7, 8, 3), nn.ReLU(), conv(8, 7, 3))
        self.up = nn.Sequential(deconv(7, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> tuple[Tensor, dict]:
        before = reference.feature
        if before is None:
            before = self.from_picture(reference.frame)
        feature = before + self.mix(torch.cat((latent, before), dim=1))
        return self.up(feature), {"feature": feature}


class Scaled(Toy):
    """A learnt scale for each channel, and depthwise convolution."""

    def build(self) -> None:
        self.scale = nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5)
        self.wide = conv(LATENT, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.Sequential(nn.PReLU(8), deconv(8, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(self.depthwise(self.wide(latent) * self.scale))


class Squeezed(Toy):
    """Squeeze and excitation: a gate of sigmoids, each multiplied with its own channel."""

    def build(self) -> None:
        self.wide = nn.Sequential(conv(LATENT, 8, 3), nn.ReLU())
        self.gate = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())
        self.up = nn.Sequential(deconv(8, 5, 3), nn.ReLU(), deconv(5, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        x = self.wide(latent)
        gate = self.gate(x.mean((2, 3)))
        return self.up(x * gate[:, :, None, None])


class Rated(SubpelChain):
    """Codes at any rate that it is told."""

    def code(
        self, frame: Tensor, reference: Reference, rate: float | None, upto: str | None
    ) -> CodedFrame:
        return super().code(frame * rate, reference, rate, upto)

    def rates(self) -> tuple[float, ...]:
        return 0.5, 1.0, 2.0


class AddedByTheEncoder(Toy):
    """The encoder has a residual block over the decoder's context, and uses it inside itself."""

    def build(self) -> None:
        self.context = conv(3, 6, 3)
        self.picture = nn.Sequential(nn.ReLU(), conv(6, 3, 3))
        self.up = deconv(LATENT, 3, 5, 4)
        self.beside = conv(6, 6, 3)
        self.last = nn.Conv2d(6, LATENT, STRIDE, STRIDE)

    def code(
        self, frame: Tensor, reference: Reference, rate: float | None, upto: str | None
    ) -> CodedFrame:
        context = self.context(reference.frame)
        latent = torch.round(self.last(context + self.beside(context)) + self.encoder(frame))
        picture = self.picture(context) + self.up(latent)
        return CodedFrame(picture, Reference(picture), {"latent": self.charge(latent)})

    def decoder_modules(self) -> tuple[str, ...]:
        return "context", "picture", "up"


class SharedLayer(Toy):
    """One layer reads two tensors in each frame, as a feature extractor does."""

    def build(self) -> None:
        self.shared = conv(3, 4, 3)
        self.picture = conv(8, 3, 3)
        self.up = deconv(LATENT, 3, 5, 4)

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        both = self.shared(reference.frame), self.shared(self.up(latent))
        return self.picture(torch.cat(both, dim=1))


class Deformed(Toy):
    """Features of the reference, fetched by offsets in eight groups, and a sum with a residual."""

    def build(self) -> None:
        self.features = conv(3, 16, 3)
        self.steer = nn.Sequential(deconv(LATENT, 5, 3), nn.LeakyReLU(), deconv(5, 16, 3))
        self.move = DeformableConv(16)
        self.residual = nn.Sequential(deconv(LATENT, 5, 3), nn.ReLU(), deconv(5, 16, 3))
        self.picture = conv(16, 3, 3)

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        feature = self.features(reference.frame)
        moved = self.move(feature, self.steer(latent))
        return self.picture(moved + self.residual(latent))


class Attended(Toy):
    """Every position takes a mixture of its neighbours, weighted by how like they are."""

    def build(self) -> None:
        self.up = nn.Sequential(deconv(LATENT, 5, 3), nn.ReLU(), deconv(5, 6, 3))
        self.query, self.key, self.value = (conv(6, 4, 3) for _ in range(3))
        self.picture = conv(4, 3, 3)

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        x = self.up(latent)
        likeness = (self.query(x).unsqueeze(2) * _shifted(self.key(x))).sum(1)
        weights = torch.softmax(likeness, dim=1).unsqueeze(1)
        return self.picture((weights * _shifted(self.value(x))).sum(2))


def _shifted(x: Tensor) -> Tensor:
    return torch.stack([x.roll((i, 1 - i), (2, 3)) for i in range(3)], dim=2)


class PlainShuffle(Toy):
    """A pixel shuffle outside the type that says which channels it joins."""

    def build(self) -> None:
        self.up = nn.Sequential(conv(LATENT, 16, 3), nn.PixelShuffle(2), deconv(4, 3, 3))

    def decode(self, latent: Tensor, reference: Reference) -> Tensor:
        return self.up(latent)


WELL_BEHAVED = (
    SubpelChain,
    Normalised,
    Warped,
    Joined,
    AddedToRawField,
    Gated,
    Halved,
    HalvedBesides,
    AutoRegressive,
    Carried,
    CarriedSum,
    Scaled,
    Squeezed,
    SharedLayer,
    Deformed,
    Attended,
    PlainShuffle,
)
