"""What a training does in its steps: rates, gradients, stages, companions, curves."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training import JOINT, MOTION, Recorder, make, same, weights

import vcodecs
from prune.data import open_source
from prune.training.trainer import (
    Curve,
    Phase,
    learning_rate_factor,
    select_modules,
    set_learning_rate,
)
from vcodecs import Reference, Stage, UserError

# ---------------------------------------------------------------------- learning rate


def phase(steps, **changes):
    return Phase("1 joint", Stage("joint", ()), steps, 1e-3, 1, 64, **changes)


def test_the_learning_rate_warms_up_over_two_percent_and_then_falls_by_half_a_cosine():
    factors = [learning_rate_factor(phase(1000), step) for step in range(1000)]
    assert factors[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert factors[20] == pytest.approx(1.0)
    middle = 20 + 980 // 2
    assert factors[middle] == pytest.approx((1 + 0.05) / 2)
    assert factors[-1] == pytest.approx(0.05, abs=1e-4)


def test_the_warm_up_of_a_long_phase_is_a_hundred_steps():
    long = phase(100_000)
    assert learning_rate_factor(long, 98) == pytest.approx(0.99)
    assert learning_rate_factor(long, 100) == 1.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(steps=st.integers(1, 20_000), final=st.floats(0, 1, allow_subnormal=False), data=st.data())
def test_the_learning_rate_never_leaves_its_bounds_and_never_rises_after_the_warm_up(
    steps, final, data
):
    one = phase(steps, final_rate=final)
    step = data.draw(st.integers(0, steps - 1))
    factor = learning_rate_factor(one, step)
    assert 0 < factor <= 1 or (factor == 0 and final == 0)
    if step >= 100 or step > steps // 50:
        assert learning_rate_factor(one, step + 1) <= factor


def test_every_group_of_parameters_follows_the_schedule_from_its_own_peak():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 2.0}])
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.5]


class RateSpy(Recorder):
    """Has one parameter of its own, and sees how far Adam moves it: by its learning rate."""

    def __init__(self, peak):
        super().__init__()
        self.peak, self.value, self.moves = peak, nn.Parameter(torch.zeros(())), []

    def parameter_groups(self):
        return [{"params": [self.value], "lr": self.peak}]

    def loss(self):
        self.before = self.value.item()
        return self.value * 1.0

    def end_step(self):
        self.moves.append(self.before - self.value.item())


def test_the_steps_of_the_optimizer_follow_the_schedule(tmp_path):
    spy = RateSpy(0.5)
    trainer = make(tmp_path, spy, phases=[(MOTION, 4)])
    trainer.run()
    # Under a constant gradient Adam moves by its learning rate.
    expected = [0.5 * learning_rate_factor(trainer.phases[0], step) for step in range(4)]
    assert spy.moves == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------------- gradients


class GradientSpy(Recorder):
    """Sees the gradients that the optimizer has just used."""

    codec = None
    largest = 0.0

    def end_step(self):
        gradients = [p.grad.flatten() for p in self.codec.parameters() if p.grad is not None]
        self.largest = max(self.largest, torch.cat(gradients).norm().item())


def test_no_gradient_is_longer_than_the_limit(tmp_path):
    norms = {}
    for limit in (1e9, 0.5):
        spy = GradientSpy()
        trainer = make(tmp_path / str(limit), spy, phases=[(JOINT, 2)], clip_norm=limit)
        spy.codec = trainer.codec
        trainer.run()
        norms[limit] = spy.largest
    assert norms[1e9] > 1
    assert norms[0.5] == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_the_stage_and_what_to_do(tmp_path, bad):
    trainer = make(tmp_path, Recorder(term=lambda step: torch.tensor(bad)), phases=[(MOTION, 3)])
    with pytest.raises(UserError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "not finite at step 0 of stage 0 motion" in message
    assert "learning rate (0.001)" in message


class Poison(Recorder):
    """One step's gradients are not finite."""

    def __init__(self, codec, at):
        super().__init__()
        self.codec, self.at = codec, at

    def loss(self):
        if self.steps != self.at:
            return 0.0
        return sum(p.sum() for p in self.codec.parameters() if p.requires_grad) * math.nan


def test_a_single_step_without_finite_gradients_is_left_out(tmp_path):
    trainer = make(tmp_path, phases=[(MOTION, 4)])
    trainer.companions.append(Poison(trainer.codec, at=2))
    trainer.run()
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())


# ---------------------------------------------------------------------- stages and phases


def test_a_stage_trains_its_modules_and_no_other(tmp_path):
    trainer = make(tmp_path, phases=[(MOTION, 2)])
    before = weights(trainer)
    inside = trainer.phases[0].stage.modules
    trainer.run()
    moved = {
        name.split(".")[0]
        for name, v in weights(trainer).items()
        if not same_value(v, before[name])
    }
    assert moved
    assert moved <= set(inside)
    assert "mvDecoder_part2" in moved


def same_value(a, b):
    return torch.equal(a, b)


def test_a_stage_trains_the_codecs_own_parameters_that_it_names_alone():
    codec = vcodecs.create("dcvc_hem", "tiny")
    stages = {stage.name: stage for stage in codec.stages()}
    own = {"mv_y_q_basic", "mv_y_q_scale", "y_q_basic", "y_q_scale"}
    for name, trained in (
        ("flow", set()),
        ("motion", {"mv_y_q_basic", "mv_y_q_scale"}),
        ("reconstruction", {"y_q_basic", "y_q_scale"}),
        ("joint", own),
    ):
        select_modules(codec, stages[name].modules)
        assert {n for n in own if getattr(codec, n).requires_grad} == trained


def test_selecting_modules_freezes_all_others():
    codec = vcodecs.create("dcvc", "tiny")
    select_modules(codec, ("feature_extract",))
    free = {name for name, p in codec.named_parameters() if p.requires_grad}
    assert free == {f"feature_extract.{n}" for n, _ in codec.feature_extract.named_parameters()}
    select_modules(codec, ("context_refine",))
    assert not any(p.requires_grad for p in codec.feature_extract.parameters())
    assert all(p.requires_grad for p in codec.context_refine.parameters())


def test_every_phase_has_clips_of_its_own_number_size_and_length(tmp_path):
    shapes = []
    trainer = make(tmp_path)
    stages = {stage.name: stage for stage in trainer.codec.stages()}
    trainer.phases = [
        Phase("1 motion", stages[MOTION], 1, 1e-4, batch=2, crop=64),
        Phase("2 joint", replace(stages[JOINT], frames=2), 1, 1e-4, batch=1, crop=128),
    ]
    trainer.total_steps = 2
    trainer.codec.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    trainer.run()
    assert shapes == [(2, 3, 64, 64), (1, 3, 128, 128), (1, 3, 128, 128)]


def test_half_precision_trains_too(tmp_path):
    trainer = make(tmp_path, phases=[(JOINT, 2)], precision="bf16")
    before = weights(trainer)
    trainer.run()
    after = weights(trainer)
    assert not same(after, before)
    assert all(value.dtype == before[name].dtype for name, value in after.items())
    # Afterwards the codec computes in full precision again.
    fresh = vcodecs.create("dcvc", "tiny").eval()
    fresh.load_state_dict(after)
    frames = torch.rand(2, 1, 3, 64, 64)
    a, b = (codec(frames[1], Reference(frames[0])) for codec in (fresh, trainer.codec))
    torch.testing.assert_close(a.frame, b.frame, rtol=0, atol=1e-4)


def test_trainings_of_different_precision_follow_one_another(tmp_path):
    make(tmp_path / "half", phases=[(MOTION, 1)], precision="bf16").run()
    make(tmp_path / "full", phases=[(MOTION, 1)]).run()


def test_denormal_numbers_are_back_after_training(tmp_path):
    make(tmp_path, phases=[(MOTION, 1)]).run()
    assert torch.tensor(1e-40) / 2 > 0


def test_no_phases_leave_the_codec_as_it_was(tmp_path):
    trainer = make(tmp_path, phases=[])
    before = weights(trainer)
    assert trainer.run() == []
    assert same(weights(trainer), before)


def test_data_that_cannot_be_read_is_a_user_error(tmp_path):
    (tmp_path / "a.yuv").write_bytes(bytes(10))
    trainer = make(tmp_path / "out", phases=[(MOTION, 2)])
    source = open_source("procedural")
    source.sample = broken_sample
    trainer.sources = [(source, 1.0)]
    with pytest.raises(UserError, match="could not be read"):
        trainer.run()


def broken_sample(*_):
    from prune.data.source import ClipError

    raise ClipError("clip 7", "torn apart")


# ---------------------------------------------------------------------- companions and curves


def test_companions_are_called_in_order_around_every_step(tmp_path):
    first, second = Recorder("a"), Recorder("b")
    second.calls = first.calls
    make(tmp_path, first, second, phases=[(MOTION, 1), (JOINT, 1)]).run()
    assert first.calls == [
        ("a", "begin", "motion", 0.0),
        ("b", "begin", "motion", 0.0),
        ("a", "loss"),
        ("b", "loss"),
        ("a", "end"),
        ("a", "figures"),
        ("b", "end"),
        ("b", "figures"),
        ("a", "begin", "joint", 0.5),
        ("b", "begin", "joint", 0.5),
        ("a", "loss"),
        ("b", "loss"),
        ("a", "end"),
        ("a", "figures"),
        ("b", "end"),
        ("b", "figures"),
    ]


def test_progress_is_the_part_of_all_steps_done(tmp_path):
    recorder = Recorder()
    make(tmp_path, recorder, phases=[(MOTION, 1), (JOINT, 3)]).run()
    seen = [call[3] for call in recorder.calls if call[1] == "begin"]
    assert seen == [0, 0.25, 0.5, 0.75]


def test_the_terms_of_companions_are_part_of_the_loss(tmp_path):
    plain = make(tmp_path / "plain", phases=[(MOTION, 1)]).run()
    more = make(tmp_path / "more", Recorder(term=7.0), phases=[(MOTION, 1)]).run()
    assert more[0].values["loss"][0] == pytest.approx(plain[0].values["loss"][0] + 7, rel=1e-6)


def test_curves_have_every_tenth_step_and_the_last_of_each_phase(tmp_path):
    curves = make(tmp_path, Recorder("mine"), phases=[(MOTION, 12), (JOINT, 1)]).run()
    assert [curve.step for curve in curves] == [[0, 10, 11], [0]]
    assert [curve.stage for curve in curves] == ["0 motion", "1 joint"]
    assert set(curves[0].values) == {"loss", "bpp", "psnr", "mine"}
    assert curves[0].values["mine"] == [1.0, 11.0, 12.0]


def test_a_curve_is_plain_data():
    curve = Curve("1 joint")
    curve.add(0, {"loss": 2.0, "bpp": 0.5})
    curve.add(10, {"loss": 1.0, "bpp": 0.4})
    expected = {"stage": "1 joint", "step": [0, 10], "loss": [2.0, 1.0], "bpp": [0.5, 0.4]}
    assert curve.as_dict() == expected


def test_figures_are_also_lines_of_json(tmp_path):
    trainer = make(tmp_path, phases=[(MOTION, 2)])
    (curve,) = trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("0 motion", 0), ("0 motion", 1)]
    assert [line["loss"] for line in lines] == curve.values["loss"]
    assert {"time", "bpp", "psnr", "speed", "waiting", "skipped"} <= lines[0].keys()
