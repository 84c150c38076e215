"""Tables of hyper latents are those of the trained chain, made without a machine's own exp."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vcodecs
from lvc.tables import PRECISION
from vcodecs import hyper
from vcodecs.entropy import BitEstimator


def chain(spread=0.5, channels=5, seed=0):
    torch.manual_seed(seed)
    made = BitEstimator(channels)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape))
    return made


def by_torch(prior, points):
    copy = BitEstimator(prior.f1.h.shape[1]).double()
    copy.load_state_dict(prior.state_dict())
    with torch.no_grad():
        return copy.cdf(torch.from_numpy(points)[None, :, :, None])[0, :, :, 0].numpy()


@given(st.floats(-700, 700))
def test_the_exponential_is_right_to_an_ulp_or_two(x):
    assert hyper._exp(np.array([x]))[0] == pytest.approx(np.exp(x), rel=1e-15)


@pytest.mark.parametrize("spread", [0.01, 0.5, 3])
def test_probabilities_are_those_of_the_chain(spread):
    prior = chain(spread)
    points = np.tile(np.linspace(-70, 70, 281), (5, 1))
    assert np.abs(hyper.cdf(prior, points) - by_torch(prior, points)).max() < 1e-13


def test_tables_of_trained_weights_are_those_of_their_probabilities():
    prior = vcodecs.create("dcvc", "small", "dcvc_small").coding().priors["latent"]
    edges = np.arange(-64, 66)[None] - 0.5
    masses = np.diff(by_torch(prior, np.repeat(edges, prior.f1.h.shape[1], axis=0)))
    for table, own in zip(hyper.hyper_tables(prior), masses, strict=True):
        first = table.first + 64
        promised = own[first : first + table.escape] * 2**PRECISION
        assert np.abs(table.frequencies[:-1] - promised).max() < 2 + 1e-5 * promised.max()


@pytest.mark.parametrize("value", [-3e38, -200, 200, 3e38])
def test_weights_of_any_size_have_tables(value):
    prior = chain()
    with torch.no_grad():
        prior.f2.h.fill_(value)
        prior.f3.a.fill_(value)
    for table in hyper.hyper_tables(prior):
        assert table.frequencies.sum() == 2**PRECISION and table.frequencies.min() >= 1
