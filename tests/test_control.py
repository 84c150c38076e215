"""Rate control: each P frame at a rate of its own, by its bits or by its quality."""

import elf
import numpy as np
import pytest
import torch
from reference_fill import picture
from test_real_bits import make

import vcodecs
from lvc.anchor import psnr
from lvc.pictures import as_picture
from vcodecs import UserError
from vcodecs.coding import TorchNetworks
from vcodecs.control import LeastPsnr, MostBits
from vcodecs.encode import Encoder
from vcodecs.intra import create_intra

PICTURES = [as_picture(picture(64, 64, 0.3 * i).numpy()) for i in range(4)]


def encoder(codec, rate=1.0):
    return Encoder(TorchNetworks(codec), create_intra("lossless"), 8, rate)


@pytest.fixture(scope="module")
def codec():
    """At its beginning: a transform codec, whose bits and quality rise with the level."""
    torch.manual_seed(0)
    return vcodecs.create(elf.NAME, "tiny").eval()


def test_an_attempt_leaves_the_encoder_where_it_is(codec):
    one, other = encoder(codec), encoder(codec)
    for number, shown in enumerate(PICTURES):
        if number:
            tried = one.attempt(shown, 6.5)
            assert tried.rate == 6.5
        assert one.code(shown).payload == other.code(shown).payload


def test_a_frames_own_rate_is_written_with_it(codec):
    one = encoder(codec)
    rates = [one.code(shown, rate).rate for shown, rate in zip(PICTURES, (None, 0, 7, 2.5))]  # noqa: B905
    assert rates[1:] == [0, 7, 2.5]


def bits_at(codec, rate):
    one = encoder(codec, rate)
    return [8 * len(one.code(shown).payload) for shown in PICTURES][1]


def test_bits_stay_below_a_cap_and_as_near_to_it_as_rates_allow(codec):
    cap = (bits_at(codec, 0.0) + bits_at(codec, 7.0)) / 2
    one = encoder(codec)
    control = MostBits(cap / 64**2)
    coded = [control(one, shown) for shown in PICTURES]
    assert coded[0].kind == "I" and {c.kind for c in coded[1:]} == {"P"}
    assert all(8 * len(c.payload) <= cap for c in coded[1:])
    assert 0 < coded[1].rate < 7


def test_a_cap_that_nothing_meets_is_the_lowest_rate_and_one_that_all_meet_the_highest(codec):
    for bpp, rate in ((0.0, 0), (1e6, 7)):
        one = encoder(codec)
        assert [MostBits(bpp)(one, shown).rate for shown in PICTURES[:2]][1] == rate


def test_quality_is_reached_by_the_lowest_rate_that_does(codec):
    def quality(rate):
        one = encoder(codec, rate)
        return [psnr(shown, one.code(shown).picture) for shown in PICTURES][1]

    wanted = (quality(0.0) + quality(7.0)) / 2
    one = encoder(codec)
    coded = [LeastPsnr(wanted)(one, shown) for shown in PICTURES[:2]][1]
    assert psnr(PICTURES[1], coded.picture) >= wanted
    assert 0 < coded.rate < 7
    assert np.isfinite(wanted)


def test_a_codec_of_one_rate_cannot_be_controlled():
    one = encoder(make("dcvc"), None)
    with pytest.raises(UserError, match="dcvc has one rate"):
        MostBits(0.1)(one, PICTURES[0])
