"""The four steps in which DCVC-SDD reads a latent."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc.fields import QUARTER_STEPS, halves, quarters
from vcodecs.dcvc_hem.prior import first_half
from vcodecs.dcvc_sdd.prior import Expectation, fields, quantise

SHAPES = st.tuples(st.integers(1, 3).map(lambda n: 4 * n), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SHAPES)
def test_the_steps_read_every_element_once(shape):
    steps = fields(torch.zeros(1, *shape))
    assert torch.equal(sum(steps), torch.ones(shape))
    assert all(
        np.array_equal(a[0], b.bool()) for a, b in zip(quarters((1, *shape)), steps, strict=True)
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SHAPES)
def test_a_step_reads_each_position_of_one_quarter_of_the_channels(shape):
    for step in quarters((1, *shape)):
        by_quarter = step[0].reshape(4, shape[0] // 4, *shape[1:])
        assert np.array_equal(by_quarter.sum((0, 1)), np.full(shape[1:], shape[0] // 4))


def test_the_order_of_positions_is_the_quadtrees():
    for positions, step in zip(QUARTER_STEPS, quarters((1, 4, 2, 2)), strict=True):
        assert [int(np.flatnonzero(channel)[0]) for channel in step[0]] == list(positions)


def test_two_steps_are_a_checkerboard_and_the_rest():
    first, second = halves((1, 6, 4, 4))
    assert np.array_equal(first[0], first_half(torch.zeros(1, 6, 4, 4)).bool())
    assert np.array_equal(second, ~first)


def coded(latent, step=1.0, training=False):
    """`latent` coded with a prior that tells what it is asked with."""
    asked = []
    like = torch.ones_like(latent)
    prior = Expectation(like * step, like, like * 0, torch.cat((like, like, like), dim=1))

    def expect(number, known):
        asked.append((number, known.clone()))
        return like * (1 + number), like * 0.25

    return quantise(latent, prior, expect, training), asked


def test_each_step_is_told_what_those_before_it_have_read():
    latent = 5 * torch.randn(1, 8, 4, 4)
    result, asked = coded(latent)
    masks = fields(latent)
    assert [number for number, _ in asked] == [1, 2, 3]
    for number, known in asked:
        seen = sum(masks[:number])
        assert torch.equal(known, result.latent * seen)
    expected = sum((1 + k) * mask for k, mask in enumerate(masks))
    assert torch.equal(result.scale[0], expected)


def test_a_latent_is_off_by_at_most_half_a_step():
    latent = 5 * torch.randn(1, 8, 6, 6)
    for step in (0.5, 2.0):
        result, _ = coded(latent, step)
        assert (result.latent - latent).abs().max() <= step / 2 + 1e-5


def test_in_training_symbols_carry_noise_and_gradients_pass():
    latent = torch.randn(1, 8, 4, 4, requires_grad=True)
    result, _ = coded(latent, training=True)
    assert (result.symbols - result.symbols.round()).abs().max() > 0.01
    result.latent.sum().backward()
    assert torch.equal(latent.grad, torch.ones_like(latent))
