"""Options that say how a step is computed: they change results by rounding alone."""

import copy

import pytest
import torch
from training import JOINT, make, weights

from distill import Distiller, Tap, find_taps
from prune.training.phases import Phase
from vcodecs import UserError
from vcodecs.noise import BatchPart, normal, part_of_batch, uniform

STEPS = 2


def trained(folder, **changes):
    trainer = make(folder, phases=[(JOINT, STEPS)], precision="no", **changes)
    phase = trainer.phases[0]
    trainer.phases = [
        Phase(phase.name, phase.stage, STEPS, 1e-4, batch=4, crop=64, final_rate=phase.final_rate)
    ]
    trainer.run()
    return weights(trainer)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


def test_coding_frames_twice_gives_the_same_weights(plain, tmp_path):
    again = trained(tmp_path, recompute=True)
    assert all(torch.equal(again[name], plain[name]) for name in plain)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_weights_of_the_whole(plain, tmp_path, parts):
    again = trained(tmp_path, accumulate=parts)
    # Adam moves by the learning rate where a gradient is hardly more than rounding.
    assert all(torch.allclose(again[n], plain[n], rtol=0, atol=STEPS * 2.1e-4) for n in plain)
    far = torch.cat([(again[n] - plain[n]).abs().flatten() for n in plain])
    assert float((far > 1e-6).float().mean()) < 0.01


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_parts_of_a_batch_draw_the_numbers_of_the_whole(draw, format):
    batch = torch.empty(4, 3, 8, 8).to(memory_format=format)
    torch.manual_seed(1)
    whole = draw(batch)
    for first in (0, 2):
        torch.manual_seed(1)
        with part_of_batch(BatchPart(first, 4)):
            assert torch.equal(draw(batch[first : first + 2]), whole[first : first + 2])


def with_teacher(folder, source, recompute):
    """Weights and the distillation's curve of an unrolled training with a teacher beside it."""
    trainer = make(folder, phases=[("unrolled", STEPS)], precision="no", recompute=recompute)
    teacher = copy.deepcopy(trainer.codec)
    with torch.no_grad():
        for parameter in trainer.codec.parameters():
            parameter.mul_(1.01)
    taps = [Tap(name) for name in find_taps(teacher)]
    trainer.companions.append(Distiller(trainer.codec, teacher, taps, source))
    curves = trainer.run()
    return weights(trainer), [curve.values["distillation"] for curve in curves]


@pytest.mark.parametrize("source", ["local", "network"])
def test_coding_frames_twice_goes_with_a_teacher(tmp_path, source):
    kept, curve = with_teacher(tmp_path / "a", source, False)
    again, curve_again = with_teacher(tmp_path / "b", source, True)
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    assert curve_again == curve and curve[0][0] > 0


# ---------------------------------------------------------------------- float16's scale


@pytest.fixture
def scaled(monkeypatch):
    """Trainings whose loss is scaled from here on as in float16, which no CPU trains in."""

    def at(scale):
        made = torch.amp.GradScaler("cpu", init_scale=scale)
        monkeypatch.setattr("prune.training.trainer.make_scaler", lambda _: made)
        return made

    return at


def test_a_scale_of_the_loss_changes_nothing(plain, tmp_path, scaled):
    scaled(2.0**8)
    again = trained(tmp_path, keep_checkpoints=1)
    assert all(torch.allclose(again[name], plain[name], rtol=0, atol=1e-6) for name in plain)


def test_a_scale_that_is_too_large_is_halved_and_no_fault_of_the_training(tmp_path, scaled):
    scaler = scaled(2.0**127)
    trainer = make(tmp_path, phases=[(JOINT, 6)], precision="no", skips=2)
    before = weights(trainer)
    trainer.run()
    assert trainer.skipped > 2
    assert scaler.get_scale() == 2.0 ** (127 - trainer.skipped)
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
    assert before.keys() == weights(trainer).keys()


def test_the_scale_goes_on_after_a_kill(tmp_path, scaled):
    scaled(2.0**127)
    make(tmp_path, phases=[(JOINT, 2)], precision="no").run()
    again = scaled(2.0**8)
    make(tmp_path, phases=[(JOINT, 2)], precision="no").run()
    assert again.get_scale() < 2.0**127 and again.get_scale() > 2.0**120


def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(UserError, match=r"train\.precision: fp16 needs a GPU"):
        make(tmp_path, precision="fp16").run()
