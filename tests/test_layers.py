"""Layers: each is its formula, with the published constants and state-dict names."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fill import fill
from torch import nn
from torch.nn import functional as F

from vcodecs.layers import (
    GDN,
    ActivatedResBlock,
    FoldedGDN,
    MaskedConv,
    ResBlock,
    SubpelConv,
    conv,
    deconv,
    fold,
)

OFFSET = 2.0**-18
PEDESTAL = OFFSET**2


def drawn(layer, prefix="mvEncoder.1"):
    """The layer with made-up weights, of which some of GDN's are below their bounds."""
    state = layer.state_dict()
    for name, value in state.items():
        if name != "mask":
            state[name] = torch.from_numpy(fill(f"{prefix}.{name}", value.shape))
    layer.load_state_dict(state)
    return layer.eval()


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------------- GDN


def normalisation(x, stored_beta, stored_gamma):
    """sqrt(beta_i + sum_j gamma_ij x_j^2) in float64, from the stored values."""
    lowest_beta = (1e-6 + PEDESTAL) ** 0.5
    beta = stored_beta.double().clamp(min=lowest_beta) ** 2 - PEDESTAL
    gamma = stored_gamma.double().clamp(min=OFFSET) ** 2 - PEDESTAL
    energy = torch.einsum("ij,njhw->nihw", gamma, x.double() ** 2)
    return torch.sqrt(beta.view(1, -1, 1, 1) + energy)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_divides_by_the_pooled_energy_and_its_inverse_multiplies(inverse):
    layer = drawn(GDN(6, inverse=inverse))
    assert (layer.gamma < OFFSET).any(), "the bound has something to do"
    x = 3 * torch.randn(2, 6, 4, 5)
    norm = normalisation(x, layer.beta, layer.gamma)
    expected = x * norm if inverse else x / norm
    assert close(layer(x), expected.float())


def test_gdn_stays_finite_with_stored_values_far_below_their_bounds():
    layer = GDN(3)
    with torch.no_grad():
        layer.beta.fill_(-5)
        layer.gamma.fill_(-5)
    x = torch.randn(1, 3, 4, 4)
    # beta is then 1e-6 and gamma 0: the norm is 1e-3.
    assert close(layer(x) / 1000, x, 1e-3)


def test_a_fresh_gdn_has_the_published_initial_values():
    layer = GDN(5)
    assert close(layer.beta, torch.full((5,), (1 + PEDESTAL) ** 0.5), 1e-7)
    assert close(layer.gamma, torch.sqrt(0.1 * torch.eye(5) + PEDESTAL), 1e-7)


def test_gdn_saves_beta_and_gamma_alone():
    assert list(GDN(4).state_dict()) == ["beta", "gamma"]


def test_a_parameter_below_its_bound_may_come_back_but_sinks_no_further():
    layer = GDN(2)
    with torch.no_grad():
        layer.gamma.fill_(-1)
    x = torch.ones(1, 2, 1, 1)
    layer(x).sum().backward()  # a larger gamma makes this smaller, so descent raises gamma
    assert (layer.gamma.grad < 0).all()
    layer.zero_grad()
    (-layer(x).sum()).backward()
    assert not layer.gamma.grad.any()


@pytest.mark.parametrize("inverse", [False, True])
def test_folded_gdn_is_gdn(inverse):
    layer = drawn(GDN(6, inverse=inverse))
    x = 3 * torch.randn(2, 6, 8, 8)
    folded = FoldedGDN(layer)
    assert close(folded(x), layer(x))
    assert not list(folded.parameters())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(channels=st.integers(1, 9), seed=st.integers(0, 1000), inverse=st.booleans())
def test_gdn_maps_zero_to_zero_so_that_channels_can_be_removed(channels, seed, inverse):
    torch.manual_seed(seed)
    layer = drawn(GDN(channels, inverse=inverse), prefix=f"gdn{seed}")
    x = torch.randn(1, channels, 3, 3)
    x[:, 0] = 0
    assert not layer(x)[:, 0].any()


# ---------------------------------------------------------------------- masked convolution


def test_the_mask_lets_through_rows_above_and_positions_to_the_left():
    mask = MaskedConv(3, 4).mask
    assert mask.shape == (4, 3, 5, 5)
    seen = torch.tensor(
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0.0]]
    )
    assert torch.equal(mask, seen.expand(4, 3, 5, 5))


def test_the_mask_is_part_of_the_state_dict():
    assert set(MaskedConv(2, 2).state_dict()) == {"weight", "bias", "mask"}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    place=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_an_output_depends_on_no_position_that_is_decoded_at_or_after_its_own(height, width, place):
    row, column = place[0] % height, place[1] % width
    layer = drawn(MaskedConv(2, 3))
    x = torch.randn(1, 2, height, width, requires_grad=True)
    layer(x)[0, :, row, column].sum().backward()
    reached = x.grad[0].abs().sum(0).flatten()
    assert not reached[row * width + column :].any()
    if column or row:
        assert reached.any()


def test_a_masked_convolution_leaves_its_stored_weight_alone():
    layer = drawn(MaskedConv(2, 3))
    before = layer.weight.detach().clone()
    assert before[..., 2, 2].any(), "what the mask hides is stored as well"
    layer(torch.randn(1, 2, 6, 6))
    assert torch.equal(layer.weight, before)


def test_a_masked_convolution_is_a_plain_one_with_the_masked_weight():
    layer = drawn(MaskedConv(2, 3))
    x = torch.randn(2, 2, 7, 6)
    expected = F.conv2d(x, layer.weight * layer.mask, layer.bias, padding=2)
    assert close(layer(x), expected)


# ---------------------------------------------------------------------- the others


def test_a_sub_pixel_convolution_has_the_keys_of_its_convolution_alone():
    state = SubpelConv(3, 5).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "0.weight": (20, 3, 3, 3),
        "0.bias": (20,),
    }


@pytest.mark.parametrize("factor", [2, 3])
def test_output_channel_c_of_a_sub_pixel_convolution_interleaves_its_own_block(factor):
    layer = drawn(SubpelConv(3, 2, factor))
    x = torch.randn(1, 3, 4, 5)
    made, shuffled = layer[0](x), layer(x)
    assert shuffled.shape == (1, 2, 4 * factor, 5 * factor)
    for c in range(2):
        for i in range(factor):
            for j in range(factor):
                part = shuffled[:, c, i::factor, j::factor]
                assert torch.equal(part, made[:, c * factor**2 + i * factor + j])


def test_a_residual_block_activates_first_and_adds_its_raw_input():
    block = drawn(ResBlock(4), prefix="block")
    x = torch.randn(1, 4, 6, 6)
    inner = F.conv2d(x.clamp(min=0), block.conv1.weight, block.conv1.bias, padding=1)
    outer = F.conv2d(inner.clamp(min=0), block.conv2.weight, block.conv2.bias, padding=1)
    assert close(block(x), x + outer)


def test_an_activated_residual_block_activates_inside_the_sum():
    block = drawn(ActivatedResBlock(4), prefix="block")
    first, second = block.conv[0], block.conv[2]
    x = torch.randn(1, 4, 6, 6)
    inner = F.leaky_relu(F.conv2d(x, first.weight, first.bias, padding=1), 0.1)
    outer = F.leaky_relu(F.conv2d(inner, second.weight, second.bias, padding=1), 0.1)
    assert close(block(x), x + outer)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
)
def test_convolutions_divide_and_transposed_ones_multiply_the_sides(kernel, stride, height, width):
    small, large = (height, width), (height * stride, width * stride)
    assert conv(1, 2, kernel, stride)(torch.zeros(1, 1, *large)).shape == (1, 2, *small)
    if kernel >= stride:
        assert deconv(1, 2, kernel, stride)(torch.zeros(1, 1, *small)).shape == (1, 2, *large)


# ---------------------------------------------------------------------- folding


def network():
    layers = conv(3, 6, 3), GDN(6), MaskedConv(6, 4), nn.Sequential(GDN(4, inverse=True))
    return drawn(nn.Sequential(*layers), prefix="network").train()


def test_folding_leaves_plain_arithmetic_that_computes_the_same():
    original = network()
    folded = fold(original)
    kinds = {type(module) for module in folded.modules()}
    assert kinds == {nn.Sequential, nn.Conv2d, FoldedGDN}
    x = torch.randn(1, 3, 9, 9)
    assert close(folded(x), original(x))


def test_folding_makes_a_copy_that_is_done_with_training():
    original = network()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    folded = fold(original)
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(module.training for module in folded.modules())
    assert original.training and all(p.requires_grad for p in original.parameters())
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
