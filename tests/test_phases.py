"""Time boxes: how the time that there is becomes phases' shares and learning rates."""

import pytest

from prune.training.phases import Phase, TimeBox, boxed_rate_factor
from vcodecs import Stage


def phase(steps=100, frames=1, batch=1, crop=64):
    return Phase("1 joint", Stage("joint", (), frames=frames), steps, 1e-3, batch, crop)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_phases_share_the_time_by_the_pixels_that_they_code(clock):
    box = TimeBox(60, clock)
    phases = [phase(100), phase(100, frames=2), phase(50, batch=4), phase(25, crop=128)]
    box.begin(phases)
    assert box.seconds == pytest.approx(60 * 100 / (100 + 200 + 200 + 100))


def test_a_phase_is_over_when_its_time_is(clock):
    box = TimeBox(60, clock)
    box.begin([phase(), phase()])
    seen = []
    for now in (0, 15, 29.9, 30, 45):
        clock.now = now
        seen.append(box.part())
    assert seen == pytest.approx([0, 0.5, 29.9 / 30, 1, 1])


def test_what_one_phase_leaves_the_others_have(clock):
    box = TimeBox(60, clock)
    clock.now = 10
    box.begin([phase(), phase()])
    assert box.seconds == pytest.approx(25)
    clock.now = 40
    box.begin([phase()])
    assert box.seconds == pytest.approx(20)


def test_a_phase_that_was_begun_before_needs_the_rest_of_its_share(clock):
    box = TimeBox(60, clock)
    box.begin([phase(), phase()], done=0.5)
    assert box.seconds == pytest.approx(20)
    assert box.part() == 0.5
    clock.now = 10
    assert box.part() == pytest.approx(0.75)


def test_late_phases_still_end(clock):
    box = TimeBox(10, clock)
    clock.now = 20
    box.begin([phase()])
    clock.now = 20.1
    assert box.part() == 1


def test_the_learning_rate_follows_the_clock_after_a_warm_up_of_steps():
    long = phase(10_000)
    assert boxed_rate_factor(long, 0.0, 0) == pytest.approx(0.01)
    assert boxed_rate_factor(long, 0.0, 99) == 1
    assert boxed_rate_factor(long, 0.5, 500) == pytest.approx((1 + 0.05) / 2)
    assert boxed_rate_factor(long, 1.0, 900) == pytest.approx(0.05)
    # Taken up again in the middle it warms up anew: the optimizer may have been left behind.
    assert boxed_rate_factor(long, 0.5, 0) == pytest.approx(0.01 * (1 + 0.05) / 2)
