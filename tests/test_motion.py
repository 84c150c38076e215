"""Motion: vectors point from the current frame into the reference, in pixels, right and down."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from vcodecs.motion import FlowLevel, SpyNet, upsample_flow, warp


def fetched(image, x, y):
    """The pixel of `image` (C, H, W) at real coordinates: bilinear, the border repeated."""
    height, width = image.shape[-2:]
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(math.floor(x), width - 2), min(math.floor(y), height - 2)
    a, b = x - left, y - top
    upper = (1 - a) * image[:, top, left] + a * image[:, top, left + 1]
    lower = (1 - a) * image[:, top + 1, left] + a * image[:, top + 1, left + 1]
    return (1 - b) * upper + b * lower


def warped_pixel_by_pixel(image, flow):
    image, flow = image.double(), flow.double()
    out = torch.empty_like(image)
    for row in range(image.shape[-2]):
        for column in range(image.shape[-1]):
            x, y = column + float(flow[0, row, column]), row + float(flow[1, row, column])
            out[:, row, column] = fetched(image, x, y)
    return out


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    reach=st.sampled_from([0.4, 3.0, 30.0]),
    seed=st.integers(0, 10**6),
)
def test_warping_fetches_bilinearly_and_repeats_the_border(height, width, reach, seed):
    torch.manual_seed(seed)
    image, flow = torch.rand(2, 3, height, width), reach * torch.randn(2, 2, height, width)
    warped = warp(image, flow)
    for n in range(2):
        expected = warped_pixel_by_pixel(image[n], flow[n]).float()
        assert torch.allclose(warped[n], expected, rtol=0, atol=2e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(right=st.integers(-12, 12), down=st.integers(-12, 12))
def test_a_whole_number_of_pixels_shifts_without_blur(right, down):
    image = torch.rand(1, 2, 11, 14)
    flow = torch.tensor([right, down]).view(1, 2, 1, 1).expand(1, 2, 11, 14).float()
    rows = (torch.arange(11) + down).clamp(0, 10)
    columns = (torch.arange(14) + right).clamp(0, 13)
    expected = image[..., rows, :][..., columns]
    assert torch.allclose(warp(image, flow), expected, rtol=0, atol=1e-5)


def test_no_motion_changes_nothing_also_in_a_large_frame():
    image = torch.rand(1, 1, 270, 480)
    still = warp(image, torch.zeros(1, 2, 270, 480))
    assert torch.allclose(still, image, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coordinates_are_computed_in_float32_whatever_the_networks_run_in(dtype):
    # A half-precision grid cannot tell neighbouring columns of a wide frame apart.
    image = (torch.arange(2048) % 7).expand(1, 1, 2, 2048).to(dtype)
    shifted = warp(image, torch.full((1, 2, 2, 2048), 1.0, dtype=dtype))
    assert shifted.dtype == torch.float32
    assert torch.allclose(shifted[..., :-1], image[..., 1:].float(), rtol=0, atol=5e-3)


def test_gradients_say_which_way_to_move():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    flow = torch.zeros(1, 2, 16, 16, requires_grad=True)
    warp(ramp, flow)[..., 1:-1, 1:-1].sum().backward()
    inner = flow.grad[..., 1:-1, 1:-1]
    assert torch.allclose(inner[:, 0], torch.ones(1), atol=1e-4)
    assert torch.allclose(inner[:, 1], torch.zeros(1), atol=1e-4)


def test_an_enlarged_flow_points_to_the_same_place():
    flow = torch.tensor([3.0, -1.5]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    large = upsample_flow(flow)
    assert large.shape == (1, 2, 8, 12)
    assert torch.allclose(large, 2 * flow[..., :1, :1].expand(1, 2, 8, 12))


def test_an_enlarged_flow_has_sample_centres_at_a_quarter_and_three_quarters():
    flow = torch.tensor([0.0, 4.0]).view(1, 1, 1, 2).expand(1, 2, 1, 2)
    assert torch.allclose(upsample_flow(flow)[0, 0, 0], torch.tensor([0.0, 2.0, 6.0, 8.0]))


# ---------------------------------------------------------------------- SpyNet


def test_a_level_is_five_wide_convolutions():
    level = FlowLevel((4, 6, 5, 3))
    shapes = {name: tuple(value.shape) for name, value in level.named_parameters()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "conv1.weight": (4, 8, 7, 7),
        "conv2.weight": (6, 4, 7, 7),
        "conv3.weight": (5, 6, 7, 7),
        "conv4.weight": (3, 5, 7, 7),
        "conv5.weight": (2, 3, 7, 7),
    }
    x = torch.randn(1, 8, 9, 11)
    expected = x
    for i in range(1, 6):
        layer = getattr(level, f"conv{i}")
        expected = F.conv2d(expected, layer.weight, layer.bias, padding=3)
        expected = expected.relu() if i < 5 else expected
    assert torch.allclose(level(x), expected)


@torch.no_grad()
def quiet(widths=(4, 4, 4, 4)):
    """A SpyNet whose levels all say: no change."""
    network = SpyNet(widths)
    for level in network.moduleBasic:
        level.conv5.weight.zero_()
        level.conv5.bias.zero_()
    return network


@settings(max_examples=8, deadline=None, derandomize=True)
@given(height=st.integers(1, 4), width=st.integers(1, 4))
def test_levels_that_add_nothing_leave_the_flow_at_zero(height, width):
    current, reference = torch.rand(2, 2, 3, 16 * height, 16 * width)
    flow, _ = quiet()(current, reference)
    assert flow.shape == (2, 2, 16 * height, 16 * width)
    assert not flow.any()


def test_what_a_level_adds_is_doubled_by_every_finer_one():
    network = quiet()
    with torch.no_grad():
        for i, level in enumerate(network.moduleBasic):
            level.conv5.bias.copy_(torch.tensor([10.0**i, 0.0]))
    flow, _ = network(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    # Coarsest level first: 1 * 8 + 10 * 4 + 100 * 2 + 1000.
    assert torch.allclose(flow[:, 0], torch.tensor(1248.0))
    assert not flow[:, 1].any()


def test_each_level_sees_the_frame_the_warped_reference_and_the_flow_at_its_size():
    network = quiet()
    with torch.no_grad():
        network.moduleBasic[0].conv5.bias.copy_(torch.tensor([1.0, 0.0]))
    current, reference = torch.rand(2, 1, 3, 32, 48)
    inputs = []
    for level in network.moduleBasic:
        level.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        network(current, reference)
    for i, x in enumerate(inputs):
        times = 2 ** (3 - i)
        flow = torch.zeros(1, 2, 32 // times, 48 // times)
        flow[:, 0] = 0 if i == 0 else 2**i
        assert torch.allclose(x[:, :3], F.avg_pool2d(current, times), atol=1e-6)
        assert torch.allclose(x[:, 3:6], warp(F.avg_pool2d(reference, times), flow), atol=1e-5)
        assert torch.allclose(x[:, 6:], flow)


def test_the_coarser_levels_are_judged_by_their_own_predictions():
    network = quiet()
    current, reference = torch.rand(2, 2, 3, 32, 48)
    flow, error = network(current, reference, with_error=True)
    coarse = [F.avg_pool2d(current - reference, times) for times in (8, 4, 2)]
    assert torch.allclose(error, sum(difference.square().mean() for difference in coarse))
    assert torch.equal(flow, network(current, reference)[0])
    assert network(current, reference)[1] is None


def test_a_coarse_error_teaches_its_level_and_the_coarser_ones_alone():
    network = SpyNet((4, 4, 4, 4))
    current, reference = torch.rand(2, 1, 3, 32, 32)
    network(current, reference, with_error=True)[1].backward()
    taught = [level.conv5.weight.grad is not None for level in network.moduleBasic]
    assert taught == [True, True, True, False]
