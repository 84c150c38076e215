"""Masks on channels: what the forward pass sees, and what the backward pass lets through."""

import copy

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import clip, shaken

from prune.groups.find import find_groups
from prune.groups.weights import (
    convolution,
    filter_norms,
    output_dim,
    producing_layers,
    relative_norms,
    zero_channels,
)
from prune.sparsify.gradient_decay import GradientDecay, factors
from prune.sparsify.masked import Gate, MaskedGroup
from vcodecs import Reference
from vcodecs.layers import SubpelConv, deconv

MASK = torch.tensor([1.0, 0.0, 1.0, 0.0])
# Name: the layer, and how many of its outputs belong to each of the four channels.
LAYERS = {
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding=1), 1),
    "transposed": (lambda: deconv(3, 4, 3), 1),
    "sub-pixel": (lambda: SubpelConv(3, 4)[0], 4),
}
each_layer = pytest.mark.parametrize("name", LAYERS)
each_beta = pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])


def gate_of(mask: torch.Tensor, beta: float, soft: torch.Tensor | None = None) -> Gate:
    value = mask if soft is None else mask + soft - soft.detach()
    return Gate(value, *factors("gradient-decay", mask, beta))


def apply(weight: torch.Tensor, gate: Gate, dim: int, repeat: int = 1) -> torch.Tensor:
    channels = torch.arange(len(gate.value)).repeat_interleave(repeat)
    return GradientDecay.apply(weight, gate.value, gate.forward, gate.backward, dim, channels)


def rows(factor: torch.Tensor, repeat: int, weight: torch.Tensor, dim: int) -> torch.Tensor:
    """(C,) factors written out in the weight's own shape."""
    full = torch.empty_like(weight)
    for i in range(weight.shape[dim]):
        full.select(dim, i).fill_(float(factor[i // repeat]))
    return full


# ---------------------------------------------------------------------- the estimator


@each_layer
@each_beta
def test_weights_learn_by_the_definition(name, beta):
    """dL/dW = dL/dW~ * (m + beta (1 - m)) with W~ = m W, for weight and bias."""
    make, repeat = LAYERS[name]
    layer = make()
    x = torch.rand(2, 3, 5, 5)
    gate = gate_of(MASK, beta)
    masked, plain = {}, {}
    for key, dim in (("weight", output_dim(layer)), ("bias", 0)):
        stored = getattr(layer, key).detach()
        masked[key] = stored.clone().requires_grad_()
        factor = rows(MASK, repeat, stored, dim)
        plain[key] = (factor * stored).requires_grad_()
    dims = {"weight": output_dim(layer), "bias": 0}
    seen = {key: apply(masked[key], gate, dims[key], repeat) for key in masked}
    for key in seen:
        assert torch.equal(seen[key], plain[key])
    loss = lambda weights: torch.func.functional_call(layer, weights, x).sin().sum()  # noqa: E731
    loss(seen).backward()
    loss(plain).backward()
    decayed = MASK + beta * (1 - MASK)
    for key, dim in dims.items():
        expected = plain[key].grad * rows(decayed, repeat, plain[key], dim)
        torch.testing.assert_close(masked[key].grad, expected)
        gone = rows(MASK, repeat, plain[key], dim) == 0
        assert bool((masked[key].grad[gone] != 0).any()) == (beta > 0)


@each_layer
def test_a_gate_learns_what_opening_its_channel_would_do(name):
    """Its gradient is the sum of weight * dL/dW~ over the channel, masked or not."""
    make, repeat = LAYERS[name]
    layer = make().double()
    dim = output_dim(layer)
    weight = layer.weight.detach()
    x = torch.rand(2, 3, 5, 5).double()
    value = MASK.double().requires_grad_()
    gate = Gate(value, *factors("gradient-decay", MASK.double(), 0.3))

    def loss(seen: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": seen}, x).sin().sum()

    loss(apply(weight, gate, dim, repeat)).backward()
    step = 1e-6
    for c in range(4):
        one = torch.zeros(4).double()
        one[c] = step
        ahead, behind = (
            float(loss(weight * rows(MASK.double() + sign * one, repeat, weight, dim)).detach())
            for sign in (1, -1)
        )
        assert float(value.grad[c]) == pytest.approx((ahead - behind) / 2 / step, rel=1e-5)


def test_with_open_gates_the_gradient_is_that_of_finite_differences():
    weight = torch.randn(4, 3, 3, 3, dtype=torch.double, requires_grad=True)
    ones = torch.ones(4, dtype=torch.double)
    gate = Gate(ones.clone().requires_grad_(), *factors("gradient-decay", ones, 1.0))
    assert torch.autograd.gradcheck(
        lambda w, g: apply(w, Gate(g, gate.forward, gate.backward), 0),
        (weight, gate.value.detach()),
    )


def test_with_beta_one_the_gradient_is_that_of_the_unmasked_sum():
    """The straight-through reading: as if the mask were a constant that is added."""
    weight = torch.randn(4, 3, requires_grad=True)
    target = torch.randn(4, 3)
    through = weight + (rows(MASK, 1, weight, 0) * weight - weight).detach()
    (expected,) = torch.autograd.grad(((through - target) ** 2).sum(), weight)
    seen = apply(weight, gate_of(MASK, 1.0), 0)
    (found,) = torch.autograd.grad(((seen - target) ** 2).sum(), weight)
    torch.testing.assert_close(found, expected)


def test_outputs_of_no_channel_are_left_alone():
    weight = torch.randn(5, 2, requires_grad=True)
    zero = torch.zeros(2)
    value = zero.clone().requires_grad_()
    seen = GradientDecay.apply(weight, value, zero, zero, 0, torch.tensor([0, -1, 1, -1, 0]))
    seen.sum().backward()
    assert torch.equal(seen[[1, 3]], weight[[1, 3]])
    assert not seen[[0, 2, 4]].any()
    assert torch.equal(weight.grad.sum(1), torch.tensor([0.0, 2, 0, 2, 0]))
    expected = torch.stack((weight[[0, 4]].sum(), weight[2].sum()))
    torch.testing.assert_close(value.grad, expected.detach())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    mask=st.lists(st.booleans(), min_size=1, max_size=6),
    beta=st.floats(0, 1),
    repeat=st.sampled_from([1, 4]),
    seed=st.integers(0, 1000),
)
def test_forward_is_exactly_the_mask_times_the_weight(mask, beta, repeat, seed):
    mask = torch.tensor(mask, dtype=torch.float)
    weight = torch.randn(len(mask) * repeat, 3, generator=torch.Generator().manual_seed(seed))
    seen = apply(weight, gate_of(mask, beta), 0, repeat)
    assert torch.equal(seen, rows(mask, repeat, weight, 0) * weight)


# ---------------------------------------------------------------------- masks on a codec


def masked_group(codec, name, mask):
    group = next(g for g in find_groups(codec).groups if g.name == name)
    masked = MaskedGroup(codec, group)
    masked.gate = gate_of(mask, 0.5)
    return group, masked


@pytest.mark.parametrize(
    "kind, name",
    [
        (toys.SubpelChain, "up.0"),
        (toys.Normalised, "up.0"),
        (toys.Warped, "features"),
        (toys.Gated, "wide"),
        (toys.Halved, "wide.0"),
        (toys.AutoRegressive, "spatial"),
        (toys.Carried, "mix.2"),
        (toys.Scaled, "wide"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_masked_codec_is_one_whose_channels_are_zero(kind, name):
    codec = shaken(kind())
    zeroed = copy.deepcopy(codec)
    group, masked = masked_group(codec, name, torch.ones(0))
    mask = torch.ones(group.size)
    mask[[1, 3]] = 0
    masked.gate = gate_of(mask, 0.5)
    zero_channels(zeroed, group, mask.nonzero().flatten().tolist())
    frame = clip(2)
    a = codec(frame[1:], Reference(frame[:1]))
    b = zeroed(frame[1:], Reference(frame[:1]))
    torch.testing.assert_close(a.frame, b.frame, rtol=0, atol=0)
    torch.testing.assert_close(a.bits, b.bits, rtol=0, atol=0)


def test_masks_add_nothing_to_what_is_saved_but_the_names_of_the_weights():
    codec = toys.Gated()
    shapes = sorted(tuple(value.shape) for value in codec.state_dict().values())
    masked_group(codec, "wide", torch.ones(6))
    assert sorted(tuple(value.shape) for value in codec.state_dict().values()) == shapes


def test_unmasking_gives_back_the_dense_weights():
    codec = toys.Halved()
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    _, masked = masked_group(codec, "wide.0", torch.zeros(5))
    assert not codec.wide[0].weight.any()
    masked.unmask()
    after = codec.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_layers_that_share_channels_share_the_mask():
    codec = shaken(toys.Warped())
    masked_group(codec, "features", torch.tensor([1.0, 0, 1, 1, 1, 1]))
    for layer in (codec.features, codec.picture[0].conv2):
        assert not layer.weight[1].any()
        assert not layer.bias[1].any()
        assert layer.weight[0].all()


def test_an_output_of_each_part_of_a_split_tensor_is_masked():
    codec = shaken(toys.Gated())
    masked_group(codec, "wide", torch.tensor([1.0, 0, 1, 1, 1, 1]))
    silent = [i for i in range(12) if not codec.wide.weight[i].any()]
    assert silent == [1, 7]


# ---------------------------------------------------------------------- norms


def test_a_norm_is_the_root_mean_square_of_what_makes_the_channel():
    codec = shaken(toys.Warped())
    _, masked = masked_group(codec, "features", torch.zeros(6))
    first = codec.features.parametrizations.weight.original
    second = codec.picture[0].conv2.parametrizations.weight.original
    weights = torch.cat((first.flatten(1), second.flatten(1)), dim=1)
    torch.testing.assert_close(masked.norms(), weights.square().mean(1).sqrt().detach())
    assert not masked.norms().requires_grad


@each_layer
def test_norms_follow_the_dimension_that_makes_the_channels(name):
    make, repeat = LAYERS[name]
    layer = make()
    dim = output_dim(layer)
    with torch.no_grad():
        for i in range(4 * repeat):
            layer.weight.select(dim, i).fill_(float(i // repeat + 1))
    norms = filter_norms([(layer, torch.arange(4).repeat_interleave(repeat))], 4)
    torch.testing.assert_close(norms, torch.tensor([1.0, 2, 3, 4]))


def test_norms_are_those_behind_the_mask():
    codec = shaken(toys.Normalised())
    group = find_groups(codec).groups[0]
    dense = filter_norms(producing_layers(codec, group), group.size)
    masked = MaskedGroup(codec, group)
    masked.gate = gate_of(torch.zeros(group.size), 0.0)
    assert torch.equal(masked.norms(), dense)


def test_relative_norms_have_the_mean_one():
    codec = shaken(toys.Gated())
    for group in find_groups(codec).groups:
        assert float(relative_norms(codec, group).mean()) == pytest.approx(1)


def test_a_sub_pixel_convolution_keeps_its_weights_inside():
    codec = toys.SubpelChain()
    assert convolution(codec, "up.0") is codec.up[0][0]
    assert convolution(codec, "up.2") is codec.up[2]
