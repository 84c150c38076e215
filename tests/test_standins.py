"""Where CompressAI cannot be installed, what stands in for it is the same to the bit."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from vcodecs import standins


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        reason = "CompressAI is not installed on this Python"
        layers = pytest.importorskip("compressai.layers", reason=reason)
        ops = pytest.importorskip("compressai.ops", reason=reason)
    return layers, ops


def both(one, other, shape=(2, 6, 9, 9)):
    """Values, and gradients of the input and of the parameters, of each."""
    x, weight = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    results = []
    for function in (one, other):
        given = x.clone().requires_grad_()
        made = function(given)
        (made * weight).sum().backward()
        parameters = function.parameters() if isinstance(function, nn.Module) else ()
        results.append([made, given.grad, *(p.grad for p in parameters)])
    return zip(*results, strict=True)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn(theirs, inverse):
    ours, known = standins.GDN(6, inverse=inverse), theirs[0].GDN(6, inverse=inverse)
    assert ours.state_dict().keys() == known.state_dict().keys()
    generator = torch.Generator().manual_seed(1)
    for mine, other in zip(ours.parameters(), known.parameters(), strict=True):
        assert torch.equal(mine, other), "it starts alike"
        # Some fall below their bounds, where gradients are told apart.
        changed = mine.detach() + 0.3 * torch.randn(mine.shape, generator=generator)
        mine.data, other.data = changed.clone(), changed.clone()
    assert all(torch.equal(mine, other) for mine, other in both(ours, known))


def test_the_bound(theirs):
    pair = standins.LowerBound(0.1), theirs[1].LowerBound(0.1)
    assert all(torch.equal(mine, other) for mine, other in both(*pair))


def test_the_mask(theirs):
    made = []
    for layers in (standins, theirs[0]):
        torch.manual_seed(0)
        made.append(layers.MaskedConv2d(6, 4, kernel_size=5, padding=2, mask_type="A"))
    ours, known = made
    assert ours.state_dict().keys() == known.state_dict().keys()
    assert torch.equal(ours.mask, known.mask) and torch.equal(ours.weight, known.weight)
    x = torch.randn(1, 6, 9, 9)
    assert torch.equal(ours(x), known(x))


def test_rounding(theirs):
    pair = standins.quantize_ste, theirs[1].quantize_ste
    assert all(torch.equal(mine, other) for mine, other in both(*pair))


def test_without_compressai_codecs_are_made_and_planned():
    program = (
        "import sys; sys.modules['compressai'] = None; import prune, vcodecs, vcodecs.layers as l;"
        "assert l.CompressAIGDN.__module__ == 'vcodecs.standins';"
        "prune.plan(vcodecs.create('dcvc', 'tiny'), budget=0.98)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
