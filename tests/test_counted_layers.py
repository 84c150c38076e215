"""Layers whose code counts channels, gates them or normalises groups of them."""

import math

import pytest
import torch
from plugins import conv, plugin, trained
from test_user_layers import pruned
from torch import nn
from torch.nn import functional as F
from toys import clip

from prune.groups.counts import Count
from prune.groups.find import find_groups
from prune.groups.shrink import check_same, masked_copy, shrunk_copy
from vcodecs import UserError


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.make(width)


class AttentionBySize(Block):
    """Pixels' attention whose reshapes take the input's size."""

    def make(self, w):
        self.qkv, self.out = conv(w, 3 * w, 1), conv(w, w, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, c, h * w).unbind(1)
        weights = (0.25 * q.transpose(1, 2) @ k).softmax(-1)
        return x + self.out(torch.bmm(v, weights.transpose(1, 2)).reshape(b, c, h, w))


class HeadsBySize(Block):
    """Heads of `C // heads` channels, C being the input's width."""

    heads = 4

    def make(self, w):
        self.q, self.k, self.v, self.out = (conv(w, w, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.size()
        q, k, v = (
            layer(x).view(b, self.heads, c // self.heads, h * w).permute(0, 1, 3, 2)
            for layer in (self.q, self.k, self.v)
        )
        weights = F.softmax(0.5 * torch.einsum("bhid,bhjd->bhij", q, k), dim=-1)
        y = torch.einsum("bhij,bhjd->bhid", weights, v)
        return x + self.out(y.permute(0, 1, 3, 2).reshape(b, c, h, w))


class ScaledByWidth(HeadsBySize):
    """The same, scaled by the width that is there: fewer channels would be another scale."""

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = (
            layer(x).view(b, 4, c // 4, h * w).transpose(2, 3) for layer in (self.q, self.k, self.v)
        )
        y = (q @ k.mT / math.sqrt(c // 4)).softmax(-1) @ v
        return x + self.out(y.transpose(2, 3).reshape(b, c, h, w))


class ScaledByTorch(Block):
    def make(self, w):
        self.q, self.k, self.v, self.out = (nn.Linear(w, w) for _ in range(4))

    def forward(self, x):
        y = x.flatten(2).mT
        y = F.scaled_dot_product_attention(self.q(y), self.k(y), value=self.v(y))
        return x + self.out(y).mT.unflatten(-1, x.shape[-2:])


class Windows(Block):
    """Windows by unfold, and back by fold to a multiple of the width."""

    def make(self, w):
        self.qkv, self.out = nn.Linear(w, 3 * w), nn.Linear(w, w)

    def forward(self, x):
        b, c, h, w = x.shape
        y = F.unfold(x, 2, stride=2).view(b, c, 4, -1).permute(0, 3, 2, 1)
        q, k, v = self.qkv(y).chunk(3, -1)
        y = self.out(F.scaled_dot_product_attention(q, k, v, scale=0.3))
        return x + F.fold(y.permute(0, 3, 2, 1).reshape(b, c * 4, -1), (h, w), 2, stride=2)


class CutBySize(Block):
    def make(self, w):
        self.a, self.b, self.out = conv(w, 2 * w), conv(w, 2 * w), conv(w, w)

    def forward(self, x):
        c = x.shape[1]
        y = self.a(x)
        scale, shift = torch.split(self.b(x), [c, c], dim=1)
        return self.out(x * scale + y[:, :c] * torch.sigmoid(y[:, c:]) + shift)


class Gated(Block):
    """Gates by glu, as a layer and as a function."""

    def make(self, w):
        self.a, self.b, self.gate, self.out = conv(w, 2 * w), conv(w, 2 * w), nn.GLU(1), conv(w, w)

    def forward(self, x):
        return self.out(F.glu(self.b(self.gate(self.a(x))), dim=-3))


class SpatialGate(Block):
    """One gate for all channels: it stays, they go."""

    def make(self, w):
        self.a, self.gate, self.out = conv(w, w), conv(w, 1), conv(w, w)

    def forward(self, x):
        return self.out(self.a(x) * torch.sigmoid(self.gate(x)))


class KernelSelection(Block):
    """Branches stacked and weighted, as SKNet does."""

    def make(self, w):
        self.a, self.b, self.f = conv(w, w), conv(w, w, 5), conv(w, w // 2, 1)
        self.g, self.out = conv(w // 2, 2 * w, 1), conv(w, w)

    def forward(self, x):
        y = torch.stack([self.a(x), self.b(x)], dim=1)
        s = self.g(F.relu(self.f(y.sum(1).mean((2, 3), keepdim=True))))
        n, branches, c = y.shape[:3]
        return self.out((y * s.reshape(n, branches, c, 1, 1).softmax(1)).sum(1))


class Slopes(Block):
    def make(self, w):
        self.a, self.out = conv(w, w), conv(w, w)
        self.slopes = nn.Parameter(torch.full((w,), 0.2))

    def forward(self, x):
        return self.out(F.prelu(self.a(x), self.slopes))


class Numbers(Block):
    """Buffers with an entry for each channel: a scale, a shift, the kernels of a blur."""

    def make(self, w):
        self.a, self.out = conv(w, w), conv(w, w)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, w).view(1, w, 1, 1))
        self.register_buffer("shift", torch.linspace(0, 1, w))
        self.register_buffer("kernels", torch.ones(w, 1, 3, 3) / 9)

    def forward(self, x):
        y = self.a(x) * self.scale + self.shift[None, :, None, None]
        return self.out(F.conv2d(y, self.kernels, padding=1, groups=y.shape[1]))


class Spectral(Block):
    def make(self, w):
        self.a, self.b, self.out = conv(w, w), conv(2 * w, 2 * w, 1), conv(w, w)

    def forward(self, x):
        y = torch.fft.rfft2(self.a(x), norm="ortho")
        y = F.relu(self.b(torch.cat([y.real, y.imag], 1)))
        real, imaginary = torch.chunk(y, 2, dim=1)
        return self.out(torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:]))


class ByKeyword(Block):
    def make(self, w):
        self.a, self.b, self.out = conv(w, w), nn.Linear(w, 2 * w), conv(2 * w, w)

    def forward(self, x):
        y = F.conv2d(input=x, weight=self.a.weight, bias=self.a.bias, padding=1)
        y = F.linear(input=y.movedim(1, -1), weight=self.b.weight, bias=self.b.bias)
        y = F.interpolate(input=y.movedim(source=-1, destination=1), scale_factor=2)
        return F.conv2d(F.avg_pool2d(y, 2), self.out.weight, self.out.bias, padding=1)


class TwoReaders(Block):
    def make(self, w):
        self.a, self.b, self.both = conv(w, w), conv(w, w), nn.Bilinear(w, w, w)
        self.out = conv(w, w)

    def forward(self, x):
        y = self.both(self.a(x).movedim(1, -1), self.b(x).movedim(1, -1))
        return self.out(y.movedim(-1, 1))


class NormsAsFunctions(Block):
    def make(self, w):
        self.a, self.b, self.out = conv(w, w), conv(w, w), conv(w, w)
        self.weight, self.bias = nn.Parameter(torch.ones(w)), nn.Parameter(torch.zeros(w))

    def forward(self, x):
        y = F.layer_norm(self.a(x).mT, (4,))
        y = F.layer_norm(y.permute(0, 2, 3, 1), (16,), self.weight, self.bias).permute(0, 3, 1, 2)
        return self.out(F.group_norm(self.b(y), 4, self.weight, self.bias))


def shuffled(width):
    return nn.Sequential(conv(width, width), nn.ChannelShuffle(4), conv(width, width))


def normalised(width):
    return nn.Sequential(
        conv(width, 2 * width), nn.GroupNorm(4, 2 * width), nn.SiLU(),
        conv(2 * width, width), nn.GroupNorm(1, width), conv(width, width),
    )  # fmt: skip


BLOCKS = {
    "attention by size": (AttentionBySize, {"head": (16, 1)}),
    "heads by size": (HeadsBySize, {"head": (4, 4)}),
    "scaled by the width": (ScaledByWidth, {}),
    "scaled by torch": (ScaledByTorch, {"head": (16, 1), "block.v": (16, 1)}),
    "windows by unfold": (Windows, {"head": (16, 1), "block.qkv": (16, 3)}),
    "cut by size": (CutBySize, {"head": (16, 1), "block.out": (16, 1)}),
    "glu": (Gated, {"head": (16, 1), "block.a": (16, 2), "block.b": (16, 2), "block.out": (16, 1)}),
    "spatial gate": (SpatialGate, {"head": (16, 1), "block.a": (16, 1), "block.out": (16, 1)}),
    "kernel selection": (
        KernelSelection,
        {"head": (16, 1), "block.a": (16, 1), "block.f": (8, 1), "block.out": (16, 1)},
    ),
    "slopes": (Slopes, {"head": (16, 1), "block.a": (16, 1), "block.out": (16, 1)}),
    "buffers": (Numbers, {"head": (16, 1), "block.a": (16, 1), "block.out": (16, 1)}),
    "Fourier": (
        Spectral,
        {"head": (16, 1), "block.a": (16, 1), "block.b": (16, 2), "block.out": (16, 1)},
    ),
    "by keyword": (
        ByKeyword,
        {"head": (16, 1), "block.a": (16, 1), "block.b": (32, 1), "block.out": (16, 1)},
    ),
    "norms as functions": (NormsAsFunctions, {"head": (16, 1), "block.out": (16, 1)}),
    "Bilinear": (TwoReaders, {"head": (16, 1), "block.out": (16, 1)}),
    "shuffled": (shuffled, {"head": (16, 1), "block.0": (4, 4), "block.2": (16, 1)}),
    "GroupNorm": (normalised, {"head": (16, 1), "block.0": (4, 8), "block.5": (16, 1)}),
}
"""By name the block, and by group its size and how many channels each unit is."""

REASONS = {
    "scaled by the width": ("block.q", "their number as a value (at test_counted_layers.py:"),
    "scaled by torch": ("block.q", "which scales by their number (give it scale="),
    "spatial gate": ("block.gate", "meets all channels of another"),
    "norms as functions": ("block.b", "group_norm as a function"),
    "Bilinear": ("block.b", "read by block.both, a Bilinear"),
    "GroupNorm": ("block.3", "a GroupNorm of one group"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_what_goes_is_known_and_shrunk_is_masked(name):
    block, expected = BLOCKS[name]
    codec = plugin(block)().eval()
    channels = find_groups(codec)
    assert {g.name: (g.size, g.width) for g in channels.groups} == expected
    if name in REASONS:
        layer, words = REASONS[name]
        assert words in channels.fixed[layer]
    kept = pruned(channels)
    trained(codec)
    check_same(masked_copy(codec, channels, kept), shrunk_copy(codec, kept, channels), [clip(3)])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_scripted_module_with_weights_is_refused_in_one_line():
    codec = plugin(lambda width: torch.jit.script(nn.Sequential(conv(width, width), nn.ReLU())))()
    with pytest.raises(UserError, match=r"^block: a scripted module .* use the module"):
        find_groups(codec.eval())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_a_scripted_module_without_weights_computes_entry_by_entry():
    def block(width):
        return nn.Sequential(conv(width, width), torch.jit.script(nn.ReLU()), conv(width, width))

    channels = find_groups(plugin(block)().eval())
    assert {g.name for g in channels.groups} == {"head", "block.0", "block.2"}


def test_a_count_is_a_number_like_any_other():
    import copy
    import pickle

    count = Count(12)
    assert (count, count + 1, 2 * count, count - 2, count // 5, -count) == (12, 13, 24, 10, 2, -12)
    assert (count / 8, 3 / count, count**2, count % 5, divmod(count, 5)) == (
        1.5, 0.25, 144, 2, (2, 2)
    )  # fmt: skip
    assert math.sqrt(Count(16)) == 4
    assert torch.zeros(count, 1).shape == (12, 1)
    assert type(copy.deepcopy(count)) is type(pickle.loads(pickle.dumps(count))) is int
    assert list(range(count)) == list(range(12)) and {12: "x"}[count] == "x"
    assert f"{count} {count:03d}" == "12 012"
