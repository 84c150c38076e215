"""Distillation from a codec of the same family at other widths, through learnt 1x1 adapters."""

import copy

import pytest
import torch
from recipe_text import load, write
from toys import clip, shaken

import vcodecs
from distill import Distiller, Tap, common_taps, find_taps, make_adapters
from prune.pipeline.distillation import distillers
from prune.pipeline.job import Job
from prune.recipe.schema import DistillSection
from vcodecs import Reference, UserError, checkpoints

HEM = shaken(vcodecs.create("dcvc_hem", "tiny"))
WIDER = shaken(vcodecs.create("dcvc_hem", "small"))
JOINT = next(stage for stage in HEM.stages() if stage.name == "joint")


def learning(student, teacher):
    """The companion that lets `student` learn from `teacher`, at the joint stage."""
    section = DistillSection(source="network", teacher="of no matter here")
    (distiller,) = distillers(section, student, student, None, None, teacher)
    distiller.begin_step(JOINT, 0.0)
    return distiller


def run(student, frames=3):
    pictures = clip(frames)
    reference = Reference(pictures[:1])
    for t in range(1, frames):
        torch.manual_seed(t)
        reference = student(pictures[t : t + 1], reference, 1.0).reference


def loss_of(student, distiller):
    distiller.begin_step(JOINT, 0.0)
    run(student)
    loss = distiller.loss()
    distiller.end_step()
    return loss


def test_an_adapter_goes_from_the_students_channels_to_the_teachers():
    names = common_taps(HEM, WIDER)
    assert names == find_taps(HEM)
    adapters = make_adapters(HEM, WIDER, names)
    adapter = adapters["feature_extractor.conv2"]
    assert (adapter.in_channels, adapter.out_channels, adapter.bias) == (8, 24, None)
    assert adapter.kernel_size == (1, 1)


def test_between_equals_adapters_begin_as_the_identity():
    student = copy.deepcopy(HEM).train()
    distiller = learning(student, copy.deepcopy(HEM))
    assert float(loss_of(student, distiller).detach()) == pytest.approx(0, abs=1e-6)


def test_student_and_adapters_learn_and_the_teacher_does_not():
    student, teacher = copy.deepcopy(HEM).train(), copy.deepcopy(WIDER)
    before = copy.deepcopy(teacher.state_dict())
    names = set(student.state_dict())
    distiller = learning(student, teacher)
    own = [p for group in distiller.parameter_groups() for p in group["params"]]
    optimizer = torch.optim.Adam([*student.parameters(), *own], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = loss_of(student, distiller)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    distiller.close()
    assert set(student.state_dict()) == names


def test_features_pass_from_the_official_size_to_a_narrow_one():
    """DCVC-SDD with 21.8 million weights teaches one with 0.4 million, which is no part of it."""
    torch.manual_seed(0)
    teacher = vcodecs.create("dcvc_sdd", "official")
    student = vcodecs.create("dcvc_sdd", "tiny").train()
    distiller = learning(student, teacher)
    widest = max(a.out_channels / a.in_channels for a in distiller.adapters.values())
    assert widest == 8  # latent priors: 384 channels from 48
    pictures = clip(3)
    own = [p for group in distiller.parameter_groups() for p in group["params"]]
    optimizer = torch.optim.Adam([*student.parameters(), *own], lr=1e-3)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)
        distiller.begin_step(student.stages()[3], 0.0)
        reference = Reference(pictures[:1])
        for t in (1, 2):
            reference = student(pictures[t : t + 1], reference, 1.0).reference
        loss = distiller.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distiller.end_step()
        losses.append(float(loss.detach()))
    assert len(distiller.weights.running) > 90
    assert losses == sorted(losses, reverse=True)


def test_what_adapters_have_learnt_survives_a_restart():
    distiller = learning(copy.deepcopy(HEM), copy.deepcopy(WIDER))
    with torch.no_grad():
        for adapter in distiller.adapters.values():
            adapter.weight.normal_()
    again = learning(copy.deepcopy(HEM), copy.deepcopy(WIDER))
    again.load_state_dict(copy.deepcopy(distiller.state_dict()))
    for name, adapter in distiller.adapters.items():
        assert torch.equal(adapter.weight, again.adapters[name].weight)


def test_codecs_without_a_common_block_are_refused():
    with pytest.raises(UserError, match="no block in common"):
        common_taps(HEM, vcodecs.create("fvc", "tiny"))


def test_blocks_of_other_widths_cannot_be_given_the_students_features():
    adapters = make_adapters(HEM, WIDER, ["feature_extractor.conv2"])
    with pytest.raises(ValueError, match="need source 'network'"):
        Distiller(HEM, WIDER, [Tap("feature_extractor.conv2")], "local", adapters=adapters)


# ---------------------------------------------------------------------- recipes


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint of a DCVC that is wider than the recipes' tiny one."""
    path = tmp_path_factory.mktemp("teachers") / "small.safetensors"
    checkpoints.save(shaken(vcodecs.create("dcvc", "small")), path)
    return path


def larger(path, *overrides):
    job = Job(load(path, *overrides), path.parent)
    return job.larger_teacher


def test_a_recipe_names_a_checkpoint_of_another_size(tmp_path, base):
    path = write(tmp_path)
    assert larger(path) is None
    found = larger(path, "distill.source=network", f"distill.teacher={base}")
    assert (found.name, found.preset) == ("dcvc", "small")


def test_the_students_features_are_of_no_use_to_a_teacher_of_other_widths(tmp_path, base):
    with pytest.raises(UserError, match="source"):
        load(write(tmp_path), f"distill.teacher={base}")


def test_a_teacher_of_another_codec_is_refused(tmp_path):
    path = tmp_path / "hem.safetensors"
    checkpoints.save(HEM, path)
    with pytest.raises(UserError, match=r"distill\.teacher"):
        larger(write(tmp_path), "distill.source=network", f"distill.teacher={path}")


def test_a_run_without_another_teacher_is_the_same_as_before_there_were_any(tmp_path):
    dumped = load(write(tmp_path)).model_dump(mode="json", by_alias=True)
    assert "teacher" not in dumped["distill"]
