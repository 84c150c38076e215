"""GDN, bound, masked convolution and rounding are those of CompressAI, to the bit."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from vcodecs.entropy import rounded
from vcodecs.gdn import GDN, AnyGDN, Bound
from vcodecs.layers import MaskedConv, fold


@pytest.fixture(scope="module")
def theirs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        reason = "it has no wheels for this Python"
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
def test_gdn_is_compressais(theirs, inverse):
    ours, known = GDN(6, inverse), theirs[0].GDN(6, inverse)
    generator = torch.Generator().manual_seed(1)
    for mine, other in zip(ours.parameters(), known.parameters(), strict=True):
        assert torch.equal(mine, other), "it starts alike"
        # Some fall below their bounds, where gradients are told apart.
        changed = mine.detach() + 0.3 * torch.randn(mine.shape, generator=generator)
        mine.data, other.data = changed.clone(), changed.clone()
    assert all(torch.equal(mine, other) for mine, other in both(ours, known))


def test_gdn_keeps_its_constants_to_itself():
    assert list(GDN(3).state_dict()) == ["beta", "gamma"]


def test_the_bound_is_compressais(theirs):
    assert all(torch.equal(a, b) for a, b in both(Bound(0.1), theirs[1].LowerBound(0.1)))


def test_the_mask_is_compressais(theirs):
    torch.manual_seed(0)
    ours = MaskedConv(6, 4)
    torch.manual_seed(0)
    known = theirs[0].MaskedConv2d(6, 4, kernel_size=5, padding=2, mask_type="A")
    assert ours.state_dict().keys() == known.state_dict().keys()
    assert torch.equal(ours.mask, known.mask) and torch.equal(ours.weight, known.weight)
    x = torch.randn(1, 6, 9, 9)
    assert torch.equal(ours(x), known(x))


def test_rounding_is_compressais(theirs):
    assert all(torch.equal(a, b) for a, b in both(rounded, theirs[1].quantize_ste))


def test_a_gdn_of_compressai_counts_as_one_and_folds(theirs):
    known = theirs[0].GDN(6)
    assert isinstance(known, AnyGDN) and isinstance(GDN(6), AnyGDN)
    assert not isinstance(nn.Conv2d(1, 1, 1), AnyGDN)
    x = torch.randn(1, 6, 9, 9)
    folded = fold(nn.Sequential(known))
    assert not any(isinstance(layer, AnyGDN) for layer in folded.modules())
    assert torch.allclose(folded(x), known(x), rtol=1e-5)


def test_compressai_is_not_needed():
    program = "import sys; sys.modules['compressai'] = None; import prune, vcodecs; "
    program += "vcodecs.create('dcvc', 'tiny'); prune.plan"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
