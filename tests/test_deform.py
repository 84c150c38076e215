"""Deformable convolution: what it computes, in torch and in both forms of ONNX, and its cost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from prune.measure.deformable import FORMULAS, deformable_macs, fetching_share
from vcodecs.deform import GROUPS, DeformableConv, computed_by, has_deformable, sample_and_convolve

CLOSE = 1e-5


def test_without_offsets_it_is_a_plain_convolution():
    layer = DeformableConv(16)
    x, steering = torch.rand(2, 2, 16, 9, 11)
    plain = F.conv2d(x, layer.weight, padding=1)
    assert torch.allclose(layer(x, steering), plain, atol=CLOSE)


def test_each_group_of_channels_is_fetched_down_and_to_the_right_by_its_own_offsets():
    layer = DeformableConv(GROUPS)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :, 1, 1] = torch.eye(GROUPS)
        # Group 3 at the kernel's centre: two pixels down, one to the right.
        layer.conv_offset.bias[3 * 18 + 2 * 4] = 2
        layer.conv_offset.bias[3 * 18 + 2 * 4 + 1] = 1
        x = torch.rand(1, GROUPS, 8, 9)
        y = layer(x, torch.zeros_like(x))
    expected = x.clone()
    expected[:, 3] = F.pad(x[:, 3], (0, 1, 0, 2))[:, 2:, 1:]
    assert torch.allclose(y, expected, atol=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 2),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    spread=st.floats(0, 20),
)
def test_sampling_and_a_1x1_convolution_are_the_same(
    seed, count, groups, per_group, height, width, spread
):
    generator = torch.Generator().manual_seed(seed)
    channels = groups * per_group
    x = torch.randn(count, channels, height, width, generator=generator)
    offsets = spread * torch.randn(count, groups * 18, height, width, generator=generator)
    weight = torch.randn(5, channels, 3, 3, generator=generator)
    expected = deform_conv2d(x, offsets, weight, padding=1)
    found = sample_and_convolve(x, offsets, weight)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max() + 1))


def test_the_operator_is_chosen_for_a_while():
    layer = DeformableConv(8)
    codec = nn.Sequential(nn.Conv2d(3, 8, 3), layer)
    with computed_by(codec, "GridSample"):
        assert layer.operator == "GridSample"
    assert layer.operator == "DeformConv"
    assert has_deformable(codec) and not has_deformable(codec[0])


def test_training_and_inference_compute_the_same():
    layer = DeformableConv(16)
    nn.init.normal_(layer.conv_offset.weight, 0, 0.2)
    x, steering = torch.rand(2, 1, 16, 10, 12)
    with torch.no_grad():
        learning, showing = layer.train()(x, steering), layer.eval()(x, steering)
    assert torch.allclose(learning, showing, atol=CLOSE)


def test_gradients_reach_what_it_reads_and_what_steers_it():
    layer = DeformableConv(8)
    nn.init.normal_(layer.conv_offset.weight, 0, 0.1)
    x, steering = torch.rand(2, 1, 8, 6, 6).requires_grad_().unbind(0)
    loss = layer(x, steering).square().sum()
    for gradient in torch.autograd.grad(loss, (x, steering, layer.weight)):
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


# ---------------------------------------------------------------------- cost


@pytest.mark.parametrize("modulated", [False, True])
def test_product_and_fetching_are_counted(modulated):
    x, weight = torch.rand(2, 8, 10, 12), torch.rand(6, 4, 3, 5)  # two groups of channels
    offset, mask = torch.zeros(2, 4 * 2 * 15, 8, 8), torch.rand(2, 4 * 15, 8, 8)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        deform_conv2d(x, offset, weight, mask=mask if modulated else None)
    product, fetching = 6 * 4 * 15, 8 * 15 * (5 if modulated else 4)
    assert counter.get_total_flops() == 2 * 2 * 8 * 8 * (product + fetching)


def test_the_share_of_fetching_is_what_is_left_without_outputs():
    whole = deformable_macs(100, 8, (12, 8, 3, 3))
    assert fetching_share(12) * whole == pytest.approx(deformable_macs(100, 8, (0, 8, 3, 3)))
