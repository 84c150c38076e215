"""Layers that few codecs have: removed or explained, never wrong, never a traceback."""

import warnings

import pytest
import torch
from plugins import WIDTH, Plugin, conv, plugin, trained
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torchvision.ops import DeformConv2d
from toys import clip

import prune
from prune.groups import atoms
from prune.groups.find import find_groups
from prune.groups.shrink import check_same, masked_copy, shrunk_copy
from vcodecs import UserError


class Fetching(nn.Module):
    """torchvision's deformable convolution, plain or modulated, over groups of offsets."""

    def __init__(self, width, modulated=False, fields=1, groups=1):
        super().__init__()
        self.modulated, self.taps = modulated, 9 * fields
        self.source = conv(width, width)
        self.offsets = conv(width, (27 if modulated else 18) * fields)
        self.fetch = DeformConv2d(width, 2 * width, 3, padding=1, groups=groups)
        self.out = conv(2 * width, width)

    def forward(self, x):
        steering = self.offsets(x)
        offsets = steering[:, : 2 * self.taps]
        mask = torch.sigmoid(steering[:, 2 * self.taps :]) if self.modulated else None
        return self.out(self.fetch(self.source(x), offsets, mask))


class FetchingByFunction(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.offsets = conv(width, 18)
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3) / 12)

    def forward(self, x):
        import torchvision

        return torchvision.ops.deform_conv2d(x, self.offsets(x), self.weight, padding=1)


class Multihead(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before = conv(width, width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x):
        y = self.before(x).flatten(2).transpose(1, 2)
        y = self.attention(y, y, y, need_weights=False)[0]
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


class Recurrent(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before, self.gru = conv(width, width), nn.GRU(width, width, batch_first=True)

    def forward(self, x):
        y, _ = self.gru(self.before(x).flatten(2).transpose(1, 2))
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(8 * x) / 8

    @staticmethod
    def backward(ctx, grad):
        return grad


class Unseen(nn.Module):
    """An autograd function of one's own between two layers."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = conv(width, width), conv(width, width)

    def forward(self, x):
        return self.b(Straight.apply(self.a(x)))


class ByFunction(nn.Module):
    """Weights that are in no layer."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = conv(width, width), conv(width, width)
        self.weight = nn.Parameter(torch.randn(width, width, 1, 1) / 4)
        self.matrix = nn.Parameter(torch.randn(width, width) / 4)

    def forward(self, x):
        x = F.conv2d(self.a(x), self.weight)
        return self.b(torch.einsum("nchw,cd->ndhw", x, self.matrix))


class Standardised(nn.Conv2d):
    """A convolution with a forward of its own, whose weight is standardised on the way."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class Picked(nn.Module):
    """Single channels by number, and others by a list of numbers."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.c = conv(width, width), conv(width, width), conv(5, width)

    def forward(self, x):
        y, z = self.a(x), self.b(x)
        return self.c(torch.cat((y[:, 0:1], y[:, [2, 3]], z[:, -2:]), 1))


class Filled(nn.Module):
    """A tensor that is filled part by part."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b, self.c = conv(width, width), conv(width, width), conv(2 * width, width)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        y = x.new_zeros(x.shape[0], a.shape[1] + b.shape[1], *x.shape[2:])
        y[:, : a.shape[1]] = a
        y[:, a.shape[1] :] = b
        return self.c(y)


class Positions(nn.Module):
    """A learnt table of positions, in the shape of the feature map."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = conv(width, width), conv(width, width)
        self.table = nn.Parameter(torch.zeros(1, width, 4, 4))

    def forward(self, x):
        return self.b(self.a(x) + self.table)


class NormalisedByHand(nn.Module):
    """LayerNorm2d as ConvNeXt codecs write it."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = conv(width, width), conv(width, width)
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        x = self.a(x)
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(spread + 1e-6)
        return self.b(self.weight[:, None, None] * x + self.bias[:, None, None])


class Shuffled(nn.Module):
    """Channels shuffled between the groups of a grouped convolution, as ShuffleNet does."""

    def __init__(self, width):
        super().__init__()
        self.a = conv(width, width, groups=4)
        self.b = conv(width, width)

    def forward(self, x):
        y = self.a(x)
        return self.b(y.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2))


class Unfolded(nn.Module):
    """Neighbourhoods by unfold, and a layer that reads them."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = conv(width, width), conv(9 * width, width, 1)

    def forward(self, x):
        y = F.unfold(self.a(x), 3, padding=1)
        return self.b(y.unflatten(2, x.shape[2:]))


def wrapped(wrap):
    return lambda width: nn.Sequential(wrap(conv(width, width)), nn.ReLU(), conv(width, width))


BLOCKS = {
    "deform, plain": Fetching,
    "deform, modulated": lambda width: Fetching(width, True),
    "deform, offset groups": lambda width: Fetching(width, True, 4),
    "deform, weight groups": lambda width: Fetching(width, False, 1, 4),
    "deform as a function": FetchingByFunction,
    "MultiheadAttention": Multihead,
    "GRU": Recurrent,
    "autograd.Function": Unseen,
    "functions": ByFunction,
    "forward of its own": lambda width: nn.Sequential(
        Standardised(width, width, 3), nn.ReLU(), conv(width, width)
    ),
    "picked": Picked,
    "filled": Filled,
    "positions": Positions,
    "norm by hand": NormalisedByHand,
    "shuffled": Shuffled,
    "unfolded": Unfolded,
    "weight_norm": wrapped(parametrizations.weight_norm),
    "spectral_norm": wrapped(parametrizations.spectral_norm),
    "orthogonal": wrapped(parametrizations.orthogonal),
    "padded": lambda width: nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.ZeroPad2d(1),
        nn.Conv2d(width, width, 3), nn.AvgPool2d(2), nn.Upsample(scale_factor=2),
    ),
    "dropout, activations": lambda width: nn.Sequential(
        conv(width, width), nn.Dropout2d(), nn.SiLU(), conv(width, width), nn.Hardswish(),
    ),
    "GroupNorm by channel": lambda width: nn.Sequential(
        conv(width, width), nn.GroupNorm(width, width), conv(width, width),
    ),
}  # fmt: skip
FREE = {
    "deform, plain": {"head": 16, "block.source": 16, "block.fetch": 32, "block.out": 16},
    "deform, modulated": {"head": 16, "block.source": 16, "block.fetch": 32, "block.out": 16},
    "deform, offset groups": {"head": 16, "block.fetch": 32, "block.out": 16},
    "deform, weight groups": {"head": 16, "block.source": 4, "block.out": 16},
    "autograd.Function": {"head": 16, "block.a": 16, "block.b": 16},
    "filled": {"head": 16, "block.a": 16, "block.b": 16, "block.c": 16},
    "unfolded": {"head": 16, "block.a": 16, "block.b": 16},
    "positions": {"head": 16, "block.a": 16, "block.b": 16},
    "padded": {"head": 16, "block.1": 16, "block.3": 16},
    "dropout, activations": {"head": 16, "block.0": 16, "block.3": 16},
    "GroupNorm by channel": {"head": 16, "block.0": 16, "block.2": 16},
}
WHY = {
    "MultiheadAttention": ("block.before", "MultiheadAttention, which is not taken apart"),
    "GRU": ("block.before", "GRU, which is not taken apart"),
    "functions": ("block.a", "conv2d, whose weight is no layer's"),
    "weight_norm": ("head", "remove_parametrizations"),
    "spectral_norm": ("block.0", "remove_parametrizations"),
    "norm by hand": ("block.a", "mean over the channels"),
    "deform as a function": ("head", "deform_conv2d, whose weight is no layer's"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_layer_is_removed_rightly_or_explained(name):
    codec = plugin(BLOCKS[name])().eval()
    channels = find_groups(codec)
    groups = {g.name: g.size for g in channels.groups}
    made = {m.layer for g in channels.groups for m in g.members if m.side != "in"}
    inside = [n for n, _ in codec.named_parameters() if n.startswith(("head", "block", "tail"))]
    for parameter in inside:
        parents = {parameter[:i] for i, c in enumerate(parameter) if c == "."} | {parameter}
        assert parents & (made | channels.fixed.keys()), parameter
    assert groups == FREE.get(name, groups)
    if name in WHY:
        layer, words = WHY[name]
        assert words in channels.fixed[layer]
    kept = {g.name: [c for c in range(g.size) if c % 3 != i % 3] for i, g in
            enumerate(channels.groups)}  # fmt: skip
    trained(codec)
    check_same(masked_copy(codec, channels, kept), shrunk_copy(codec, kept, channels), [clip(3)])


@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm], ids=lambda f: f.__name__)
def test_norms_by_hooks_are_refused_in_one_line_that_says_what_to_do(wrap):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codec = plugin(wrapped(wrap))()
    with pytest.raises(UserError, match=r"^block.0: .*remove_\w+_norm") as told:
        prune.plan(codec, show=False)
    assert "\n" not in str(told.value)


def test_a_layer_under_the_names_of_sender_and_receiver_is_the_receivers():
    class Both(Plugin):
        def __init__(self, preset="only"):
            super().__init__(preset)
            self.first = self.block

        def make(self, width):
            return nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width))

    assert {g.name for g in find_groups(Both().eval()).groups} == {"head", "block.0", "block.2"}


def test_what_takes_too_long_to_sort_out_stays_with_a_reason(monkeypatch):
    monkeypatch.setattr(atoms, "MOST", 20)
    channels = find_groups(plugin(Positions)().eval())
    assert not channels.groups
    assert "too many ties" in channels.fixed["block"]


def test_code_that_fails_while_it_is_followed_is_explained():
    class Suspicious(nn.Module):
        def forward(self, x):
            if type(x.requires_grad and x.grad_fn).__name__ != "bool" and x.requires_grad:
                raise ValueError("no gradients here")
            return x

    channels = find_groups(plugin(lambda width: Suspicious())().eval())
    assert not channels.groups
    assert "ValueError: no gradients here" in channels.fixed["head"]


def test_masks_and_budget_work_on_what_is_new():
    module = nn.Sequential(
        conv(3, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU(), conv(WIDTH, WIDTH, groups=WIDTH),
        conv(WIDTH, 3),
    )  # fmt: skip
    x = torch.rand(2, 3, 16, 16)
    plan = prune.plan(module, 0.625, example=x, align=1, show=False)
    masks = prune.Masks(module, plan, steps=20)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    optimizer.add_param_group(masks.parameters())
    for _ in range(20):
        masks.begin_step()
        loss = (module(x) - x).square().mean() + masks.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        masks.end_step()
    small = prune.shrink(masks.finish())
    assert small[1].num_features == small[0].out_channels == small[3].groups < WIDTH
