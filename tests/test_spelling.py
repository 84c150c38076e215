"""One operation in every spelling that torch takes has the same channel groups."""

import pytest
import torch
from plugins import conv, plugin, trained
from toys import clip

from prune.groups.find import find_groups
from prune.groups.shrink import check_same, masked_copy, shrunk_copy

CAT = {
    "positions": lambda a, b: torch.cat((a, b), 1),
    "dim": lambda a, b: torch.cat((a, b), dim=1),
    "axis": lambda a, b: torch.cat((a, b), axis=1),
    "tensors": lambda a, b: torch.cat(tensors=(a, b), dim=-3),
    "concat": lambda a, b: torch.concat([a, b], axis=-3),
    "hstack": lambda a, b: torch.hstack((a, b)),
}
STACKS = {
    "positions": lambda a, b: torch.stack((a, b), 1).flatten(1, 2),
    "axis": lambda a, b: torch.stack((a, b), axis=1).flatten(1, 2),
    "tensors": lambda a, b: torch.stack(tensors=[a, b], dim=-4).flatten(1, 2),
    "last": lambda a, b: torch.stack((a, b), dim=-1).movedim(-1, 1).reshape(1, -1, *a.shape[2:]),
}
PARTS = {
    "positions": lambda a, b: torch.cat((*a.chunk(2, 1), b), 1),
    "input": lambda a, b: torch.cat((*torch.chunk(input=a, chunks=2, dim=1), b), 1),
    "axis": lambda a, b: torch.cat((*torch.tensor_split(a, 2, dim=-3), b), 1),
    "split": lambda a, b: torch.cat((*torch.split(a, a.shape[1] // 2, dim=1), b), 1),
    "tensor": lambda a, b: torch.cat(
        (*torch.split(tensor=a, split_size_or_sections=a.shape[1] // 2, dim=-3), b), 1
    ),
    "unbind": lambda a, b: torch.cat((*a.unflatten(1, (2, -1)).unbind(1), b), 1),
    "picked": lambda a, b: torch.cat(
        (a.unflatten(1, (2, -1))[:, 0], a.unflatten(1, (2, -1))[:, 1], b), 1
    ),
    "select": lambda a, b: torch.cat(
        [a.unflatten(1, (2, -1)).select(1, i) for i in range(2)] + [b], 1
    ),
}
SUMS = {
    "method": lambda x: x.sum(1, keepdim=True),
    "function": lambda x: torch.sum(x, 1, True),
    "input": lambda x: torch.sum(input=x, dim=1, keepdim=True),
    "negative": lambda x: x.sum(dim=-3).unsqueeze(1),
    "axis": lambda x: torch.sum(x, axis=1, keepdim=True),
    "tuple": lambda x: x.sum((1,), keepdim=True),
    "tuple and space": lambda x: x.sum((1, 2, 3), keepdim=True).tanh(),
    "all": lambda x: x.sum().tanh(),
    "flattened": lambda x: x.flatten(1).sum(-1)[:, None, None, None].tanh(),
}
OTHERS = {
    "mean": lambda x: x.mean(1, keepdim=True),
    "mean, tuple": lambda x: torch.mean(input=x, dim=(-3, -1), keepdim=True),
    "mean of space": lambda x: x.mean((2, 3), keepdim=True).sum(1, True),
    "amax": lambda x: x.amax(dim=-3, keepdim=True),
    "amin": lambda x: torch.amin(x, (1,), keepdim=True),
    "max": lambda x: x.max(dim=1, keepdim=True).values,
    "max of two": lambda x: torch.max(x, -x).sum(1, True),
    "std": lambda x: torch.std(x, dim=1, keepdim=True),
    "norm": lambda x: x.norm(dim=1, keepdim=True),
    "vector norm": lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "logsumexp": lambda x: torch.logsumexp(x, dim=1, keepdim=True),
    "argmax": lambda x: x.argmax(1, keepdim=True).float().tanh(),
    "softmax": lambda x: x.softmax(1).square().sum(1, keepdim=True),
    "einsum": lambda x: torch.einsum("nchw,nchw->nhw", x, x)[:, None],
    "prod": lambda x: x.prod(1, keepdim=True),
    "cumsum": lambda x: x.cumsum(dim=1).tanh().sum(1, keepdim=True),
}


class Joined(torch.nn.Module):
    def __init__(self, width, join):
        super().__init__()
        self.a, self.b, self.out = conv(width, width), conv(width, width), conv(2 * width, width)
        self.join = join

    def forward(self, x):
        return self.out(self.join(self.a(x), self.b(x)))


def found(join):
    """The groups of a codec that joins by `join`; each proved on other values."""
    codec = plugin(lambda width: Joined(width, join))().eval()
    channels = find_groups(codec)
    kept = {
        g.name: [c for c in range(g.size) if c % (2 + i) != 1]
        for i, g in enumerate(channels.groups)
    }
    trained(codec)
    check_same(masked_copy(codec, channels, kept), shrunk_copy(codec, kept, channels), [clip(3)])
    return {g.name: g.size for g in channels.groups}, channels.fixed


@pytest.mark.parametrize("spelling", CAT)
def test_concatenations(spelling):
    groups, _ = found(CAT[spelling])
    assert groups == {"head": 16, "block.a": 16, "block.b": 16, "block.out": 16}


@pytest.mark.parametrize("spelling", STACKS)
def test_what_is_stacked_goes_together(spelling):
    groups, _ = found(STACKS[spelling])
    assert groups == {"head": 16, "block.a": 16, "block.out": 16}


def test_numbers_in_the_code_are_named_with_their_line():
    groups, fixed = found(lambda a, b: torch.cat(torch.cat((a, b), 1).split([16, 16], 1), 1))
    assert groups == {"head": 16, "block.out": 16}
    assert "test_spelling.py" in fixed["block.a"]
    assert "[16, 16]" in fixed["block.a"]


@pytest.mark.parametrize("spelling", PARTS)
def test_parts(spelling):
    groups, _ = found(PARTS[spelling])
    assert groups == {"head": 16, "block.a": 8, "block.b": 16, "block.out": 16}


@pytest.mark.parametrize("joined", [False, True], ids=["plain", "concatenated"])
@pytest.mark.parametrize("spelling", SUMS)
def test_sums(spelling, joined):
    if joined:
        groups, _ = found(lambda a, b: torch.cat((a, b), 1) * SUMS[spelling](torch.cat((a, b), 1)))
    else:
        groups, _ = found(lambda a, b: torch.cat((a, b), 1) * SUMS[spelling](a))
    assert groups == {"head": 16, "block.a": 16, "block.b": 16, "block.out": 16}


@pytest.mark.parametrize("joined", [False, True], ids=["plain", "concatenated"])
@pytest.mark.parametrize("spelling", OTHERS)
def test_other_reductions_are_right_or_explained(spelling, joined):
    def join(a, b):
        read = torch.cat((a, b), 1) if joined else a
        return torch.cat((a, b), 1) * OTHERS[spelling](read)

    groups, fixed = found(join)
    left = groups.keys() | fixed.keys()
    assert {"head", "block.a", "block.b", "block.out"} <= left
    if "block.a" in fixed and spelling in ("mean", "amax", "std", "norm", "logsumexp", "prod"):
        assert f"{spelling} over the channels" in fixed["block.a"]
