"""Averaged weights."""

import pytest
import torch
from torch import nn

from prune.training.average import AveragedWeights


def layer(value):
    made = nn.Conv2d(1, 1, 1)
    nn.init.constant_(made.weight, value)
    nn.init.zeros_(made.bias)
    return made


def stepped(decay, values):
    codec = layer(0.0)
    average = AveragedWeights(codec, decay)
    for value in values:
        nn.init.constant_(codec.weight, value)
        average.update()
    return codec, average


def test_constant_weights_are_their_own_average():
    _, average = stepped(0.9, [1.0] * 200)
    assert average.values["weight"].item() == pytest.approx(1.0, abs=1e-6)


def test_the_average_follows_the_recurrence():
    _, average = stepped(0.5, [1.0, 3.0])
    first = 0.0 + (1 - 2 / 11) * 1.0
    assert average.values["weight"].item() == pytest.approx(first + (1 - 3 / 12) * (3.0 - first))


def test_late_steps_move_it_by_one_minus_the_decay():
    _, average = stepped(0.99, [1.0] * 2000)
    before = average.values["weight"].clone()
    nn.init.constant_(average.codec.weight, 2.0)
    average.update()
    assert (average.values["weight"] - before).item() == pytest.approx(0.01, rel=1e-3)


def test_applied_for_a_while_the_own_weights_come_back():
    codec, average = stepped(0.9, [1.0, 5.0])
    with average.applied() as applied:
        assert applied is codec
        assert torch.equal(codec.weight, average.values["weight"])
    assert codec.weight.item() == 5.0


def test_the_own_weights_come_back_from_an_error_too():
    codec, average = stepped(0.9, [5.0])
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert codec.weight.item() == 5.0


def test_its_state_goes_on_where_it_was():
    codec, average = stepped(0.9, [1.0, 2.0])
    again = AveragedWeights(codec, 0.9)
    again.load_state_dict(average.state_dict())
    nn.init.constant_(codec.weight, 7.0)
    average.update()
    again.update()
    assert torch.equal(again.values["weight"], average.values["weight"])


def test_whole_numbers_are_left_alone():
    codec = nn.BatchNorm2d(1)
    average = AveragedWeights(codec, 0.9)
    assert "num_batches_tracked" not in average.values
