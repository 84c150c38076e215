"""Codecs as users bring them: one rounded latent, and inside the decoder a block of some kind.

Small, but whole: bits that are real, graphs that are exported, a file that rebuilds them.
"""

import torch
from torch import Tensor, nn

from lvc.program import Step
from vcodecs.contract import CodedFrame, Coding, Reference, Stage, VideoCodec, grapher
from vcodecs.entropy import BitEstimator

WIDTH = 16
LATENT = 6


def conv(inputs, outputs, kernel=3, **more):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


class Plugin(VideoCodec):
    """`block` maps (N, WIDTH, h, w) to the same shape; subclasses say which it is."""

    name = "plugin"
    presets = {"only": None}  # noqa: RUF012

    def __init__(self, preset="only"):
        super().__init__()
        torch.manual_seed(0)
        self.preset = preset
        self.encoder = nn.Conv2d(3, LATENT, 16, 16)
        self.down = nn.Conv2d(LATENT, 4, 4, 4)
        self.up = nn.ConvTranspose2d(4, 2 * LATENT, 4, 4)
        self.prior = BitEstimator(4)
        self.head = conv(LATENT, WIDTH)
        self.block = self.make(WIDTH)
        self.tail = nn.ConvTranspose2d(WIDTH, 3, 16, 16)

    def make(self, width):
        raise NotImplementedError

    def picture(self, latent, previous):
        return self.tail(self.block(self.head(latent))) + previous

    def expected(self, hyper):
        mean, scale = self.up(hyper).chunk(2, 1)
        return mean, scale.exp()

    def code(self, frame, reference, rate, upto):
        latent = 4 * self.encoder(frame - reference.frame)
        hyper = torch.round(self.down(latent))
        mean, scale = self.expected(hyper)
        latent = torch.round(latent)
        picture = self.picture(latent, reference.frame)
        bits = ((latent - mean).abs() / scale + scale.log()).flatten(1).sum(1)
        return CodedFrame(picture, Reference(picture), {"latent": bits})

    def decoder_modules(self):
        return "up", "prior", "head", "block", "tail"

    def stages(self):
        return (Stage("joint", ("encoder", "down", *self.decoder_modules())),)

    def remap_official(self, state):
        return dict(state)

    def analyse(self, stream, frame, tensors, rate):
        latent = 4 * self.encoder(frame - tensors["reference"])
        return latent, self.down(latent)

    def coding(self):
        steps = (
            Step("hyper", "latent"),
            Step("run", "expected"),
            Step("plain", "latent"),
            Step("run", "picture"),
        )
        return Coding(steps, {"latent": self.prior}, self.analyse)

    def decoder_graphs(self, height, width):
        graph = grapher(self, height, width)
        return (
            graph(
                "expected",
                lambda codec, hyper: codec.expected(hyper),
                {"latent_hyper": (4, 64)},
                ("latent_mean", "latent_scale"),
            ),
            graph(
                "picture",
                lambda codec, latent, previous: codec.picture(latent, previous),
                {"latent": (LATENT, 16), "reference": (3, 1)},
                ("frame",),
            ),
        )


# ---------------------------------------------------------------------- blocks


class PixelAttention(nn.Module):
    """Queries, keys and values of one convolution; every pixel looks at all others."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = conv(width, 3 * width, 1), conv(width, width, 1)

    def forward(self, x):
        q, k, v = (t.flatten(2).transpose(1, 2) for t in self.qkv(x).chunk(3, 1))
        y = (q @ k.transpose(1, 2)).softmax(-1) @ v
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.out(y)


class FixedPixelAttention(PixelAttention):
    """The same, but its result takes the shape of what went in."""

    def forward(self, x):
        q, k, v = (t.flatten(2).transpose(1, 2) for t in self.qkv(x).chunk(3, 1))
        y = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(x.shape))


class HeadsByWidth(nn.Module):
    """Attention over heads of a fixed width: with fewer channels there are fewer heads."""

    each = 4

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (conv(width, width, 1) for _ in range(3))
        self.out = conv(width, width, 1)

    def forward(self, x):
        q, k, v = (
            layer(x).flatten(2).unflatten(1, (-1, self.each)).transpose(2, 3)
            for layer in (self.q, self.k, self.v)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))


class HeadsByNumber(nn.Module):
    """Windowed attention as in Swin: a fixed number of heads, channels last, a position bias."""

    window, heads = 4, 4

    def __init__(self, width):
        super().__init__()
        self.scale = (width // self.heads) ** -0.5
        self.bias = nn.Parameter(torch.zeros(self.heads, self.window**2, self.window**2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, c, h, w = x.shape
        s = self.window
        y = x.permute(0, 2, 3, 1).reshape(n, h // s, s, w // s, s, c).transpose(2, 3)
        y = y.reshape(-1, s * s, c)
        qkv = self.qkv(y).reshape(y.shape[0], s * s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (self.scale * q @ k.mT + self.bias).softmax(-1)
        y = self.out((weights @ v).transpose(1, 2).flatten(2))
        y = y.reshape(n, h // s, w // s, s, s, c).transpose(2, 3).reshape(n, h, w, c)
        return x + y.permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Channels look at channels: the product has a row and a column for each."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = conv(width, 3 * width, 1), conv(width, width, 1)

    def forward(self, x):
        q, k, v = (t.flatten(2) for t in self.qkv(x).chunk(3, 1))
        y = (q @ k.transpose(1, 2)).softmax(-1) @ v
        return x + self.out(y.unflatten(2, x.shape[2:]))


class ConvNext(nn.Module):
    """Depthwise 7x7, LayerNorm and linear layers in channels last, a layer scale near zero."""

    def __init__(self, width):
        super().__init__()
        self.depthwise = conv(width, width, 7, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.back(nn.functional.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class Shift(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x):
        return x + self.shift


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self, width):
        super().__init__()
        self.inner = conv(width, width)
        self.first = conv(width, width)
        self.again = self.first

    def forward(self, x):
        return self.again(torch.relu(self.inner(torch.relu(self.first(x)))))


class SharedWeight(nn.Module):
    """Two layers with one weight."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.c = conv(width, width), conv(width, width), conv(width, width)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class ResidualOverJoined(nn.Module):
    """A residual block over a concatenation: its channels are those of two layers."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = conv(width, width), conv(width, width)
        self.wide, self.back = conv(2 * width, 2 * width), conv(2 * width, 2 * width)
        self.out = conv(2 * width, width)

    def forward(self, x):
        y = torch.cat((self.a(x), self.b(x)), 1)
        return self.out(y + self.back(torch.relu(self.wide(y))))


def batch_norm(width):
    return nn.Sequential(
        conv(width, 2 * width), nn.BatchNorm2d(2 * width), nn.ReLU(), conv(2 * width, width)
    )


def instance_norm(width):
    norm = nn.InstanceNorm2d(2 * width, affine=True)
    return nn.Sequential(conv(width, 2 * width), norm, nn.ReLU(), conv(2 * width, width))


def group_norm(width):
    return nn.Sequential(conv(width, width), nn.GroupNorm(4, width), conv(width, width))


def depthwise(width):
    return nn.Sequential(
        conv(width, width, groups=width), nn.ReLU(), conv(width, 2 * width, 1), nn.PReLU(2 * width),
        conv(2 * width, 2 * width, groups=2 * width), conv(2 * width, width, 1),
    )  # fmt: skip


def grouped(width):
    return nn.Sequential(
        conv(width, 2 * width, groups=4),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 3, padding=1, groups=4),
        conv(width, width),
    )


def shifted(width):
    return nn.Sequential(conv(width, width), Shift(width), nn.ReLU(), conv(width, width))


BLOCKS = {
    "attention of pixels": PixelAttention,
    "attention of fixed shape": FixedPixelAttention,
    "heads by width": HeadsByWidth,
    "heads by number, windowed": HeadsByNumber,
    "attention of channels": ChannelAttention,
    "ConvNeXt": ConvNext,
    "BatchNorm": batch_norm,
    "InstanceNorm": instance_norm,
    "GroupNorm": group_norm,
    "depthwise": depthwise,
    "grouped": grouped,
    "learnt shift": shifted,
    "residual over a concatenation": ResidualOverJoined,
    "one layer twice": Twice,
    "one weight in two layers": SharedWeight,
}


def plugin(block):
    """A codec class around a block, known by its name in this process."""
    kind = type("Mine", (Plugin,), {"name": "plugin", "make": lambda self, width: block(width)})
    return kind


def trained(codec, seed=1):
    """Other values everywhere, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in codec.modules():
            for value in layer.parameters(recurse=False):
                spread = 0.5 * float(value.std()) if value.numel() > 1 else 0.1
                noise = torch.randn(value.shape, generator=generator)
                value.add_(max(spread, 0.05) * noise)
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.add_(0.2 * torch.randn(layer.num_features, generator=generator))
                layer.running_var.mul_(1.5)
    return codec.eval()


__all__ = ["BLOCKS", "Plugin", "Tensor", "plugin", "trained"]
