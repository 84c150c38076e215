"""The transform that small presets start from."""

import pytest
import torch
from torch import nn

import vcodecs
from vcodecs import Reference
from vcodecs.klt import analyse, cascade, synthesise
from vcodecs.layers import SubpelConv, conv, deconv


def smooth(side, phase=0.0):
    """A picture (1, 3, side, side) of slow waves."""
    rows, columns = torch.arange(side).view(-1, 1) / 9, torch.arange(side) / 7
    waves = [torch.sin(columns + phase + 0.2 * c) * torch.cos(rows + 0.2 * c) for c in range(3)]
    return (0.5 + 0.35 * torch.stack(waves))[None]


@pytest.mark.parametrize("widths", [(12, 48), (40, 40, 40, 96), (8, 5, 3)])
def test_every_stage_is_orthonormal_and_keeps_the_most_variance_first(widths):
    channels = 3
    for step, width in zip(cascade(widths), widths, strict=True):
        outputs = min(width, channels * 4)
        assert step.basis.shape == (outputs, channels, 2, 2)
        rows = step.basis.flatten(1)
        assert torch.allclose(rows @ rows.T, torch.eye(outputs), atol=1e-5)
        assert (step.deviation.diff() <= 1e-6).all()
        channels = outputs


def test_without_truncation_no_variance_is_lost():
    for stages, step in enumerate(cascade((12, 48, 192)), start=1):
        assert float(step.deviation.square().sum()) == pytest.approx(3 * 4**stages, rel=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("up", ["sub-pixel", "transposed"])
def test_what_is_analysed_can_be_synthesised(kernel, up):
    torch.manual_seed(0)
    (step,) = cascade((12,))
    down = conv(3, 14, kernel, 2)
    back = SubpelConv(14, 5, kernel=kernel) if up == "sub-pixel" else deconv(14, 5, kernel)
    analyse(down, step.basis)
    synthesise(back, step.basis)
    picture = torch.rand(1, 3, 8, 10)
    with torch.no_grad():
        seen = down(picture)
        seen[:, 12:] = 0  # what the other channels hold is theirs
        assert torch.allclose(back(seen)[:, :3], picture, atol=1e-5)


def test_layers_keep_what_the_transform_does_not_use():
    down = nn.Conv2d(3, 6, 3, 2, 1)
    before = down.weight.detach().clone()
    analyse(down, cascade((4,))[0].basis)
    assert torch.equal(down.weight[4:], before[4:])


@pytest.mark.parametrize(("preset", "least"), [("small", 30), ("tiny", 20)])
def test_an_intra_network_starts_as_a_transform_codec(preset, least):
    torch.manual_seed(0)
    codec, picture = vcodecs.create("dcvc_hem_intra", preset).eval(), smooth(64)
    with torch.no_grad():
        coded = codec(picture, Reference(picture), 3.0)
    assert -10 * (coded.frame - picture).square().mean().log10() > least


@pytest.mark.parametrize(("preset", "left"), [("small", 0.1), ("tiny", 0.6)])
def test_a_p_frame_network_starts_as_a_codec_of_differences(preset, left):
    torch.manual_seed(0)
    codec, frame, before = vcodecs.create("dcvc_hem", preset).eval(), smooth(64, 0.4), smooth(64)
    with torch.no_grad():
        coded = codec(frame, Reference(before), 3.0)
    moved = (frame - before).square().mean()
    assert (coded.frame - frame).square().mean() < left * moved
