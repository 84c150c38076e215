"""Layer-wise distillation: taps, distortions, shares, and the two sources of what is right."""

import copy

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import clip, shaken

import vcodecs
from distill import AdaptiveWeights, Distiller, Tap, decoder_stages, find_taps
from distill.losses import distortion
from prune.groups.find import find_groups
from prune.groups.shrink import shrunk_copy
from prune.pipeline.distillation import _tap
from vcodecs import Reference, Stage

CODEC = shaken(vcodecs.create("dcvc", "tiny"))
JOINT = next(stage for stage in CODEC.stages() if stage.name == "joint")
MOTION = next(stage for stage in CODEC.stages() if stage.name == "motion")


def run(codec, frames=2, seed=0):
    """P frames in a coding loop; the last coded frame."""
    pictures = clip(frames, seed=seed)
    reference = Reference(pictures[:1])
    for t in range(1, frames):
        torch.manual_seed(t)
        coded = codec(pictures[t : t + 1], reference)
        reference = coded.reference
    return coded


def pair(source="local", taps=None, codec=CODEC, stage=JOINT, **more):
    """A student that is its teacher as yet, the teacher, and the distiller between them."""
    student, teacher = copy.deepcopy(codec).train(), copy.deepcopy(codec)
    names = find_taps(teacher) if taps is None else taps
    distiller = Distiller(student, teacher, [Tap(n) for n in names], source, **more)
    distiller.begin_step(stage, 0.0)
    return student, teacher, distiller


def spoil(layer, size=0.3):
    with torch.no_grad():
        layer.weight.add_(size * torch.randn(layer.weight.shape))


# ---------------------------------------------------------------------- taps


def test_the_taps_of_dcvc_are_the_blocks_of_its_decoder():
    taps = find_taps(CODEC)
    assert len(taps) == 43
    for name in ("mvDecoder_part1.0", "feature_extract.1", "contextualDecoder_part1.4"):
        assert name in taps
    # Of the modules that are one layer, the module itself.
    assert {"auto_regressive", "auto_regressive_mv"} <= set(taps)


def test_normalisations_activations_estimators_and_the_encoder_have_no_taps():
    for name in find_taps(CODEC):
        block = CODEC.get_submodule(name)
        assert name.split(".")[0] in CODEC.decoder_modules()
        assert any(True for _ in block.parameters())
    assert not {"mvDecoder_part1.1", "mvDecoder_part2.1", "bitEstimator_z"} & set(find_taps(CODEC))


def test_blocks_that_read_or_yield_several_tensors_are_taken_apart():
    taps = find_taps(vcodecs.create("dcvc_hem", "tiny"))
    inside = [tap for tap in taps if tap.startswith("recon_generation_net")]
    assert inside == [
        f"recon_generation_net.{part}" for part in ("first_conv", "unet_1", "unet_2", "recon_conv")
    ]
    assert "feature_extractor.res_block2" in taps and "feature_extractor" not in taps
    assert {"feature_adaptor_I", "feature_adaptor_P"} <= set(taps)


def test_finding_taps_leaves_the_codec_as_it_was():
    codec = vcodecs.create("dcvc_hem", "tiny").train()
    state = torch.get_rng_state()
    find_taps(codec)
    assert codec.training and torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in codec.modules())


def test_stages_that_train_no_decoder_module_are_left_out():
    names = [stage.name for stage in CODEC.stages()]
    assert [stage.name for stage in decoder_stages(CODEC)] == [n for n in names if n != "flow"]


# ---------------------------------------------------------------------- distortion

features = st.integers(0, 10**6).map(
    lambda seed: torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(seed))
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(a=features, b=features, scale=st.floats(1e-3, 1e3))
def test_a_distortion_is_within_0_and_4_and_blind_to_scale(a, b, scale):
    assert 0 <= float(distortion(a, b)) <= 4
    assert float(distortion(a, scale * a)) == pytest.approx(0, abs=1e-6)
    assert float(distortion(a, -scale * a)) == pytest.approx(4, abs=1e-5)
    assert float(distortion(scale * a, b)) == pytest.approx(float(distortion(a, b)), abs=1e-5)


def test_a_distortion_is_the_squared_distance_of_directions():
    a = torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1)
    b = torch.tensor([0.0, 0.1]).reshape(1, 2, 1, 1)
    assert float(distortion(a, b)) == pytest.approx(2)
    half = torch.cat((a, a), dim=3), torch.cat((a, b), dim=3)
    assert float(distortion(*half)) == pytest.approx(1)  # mean over positions


def test_features_of_zeros_give_a_number_and_a_gradient():
    zero = torch.zeros(1, 3, 2, 2, requires_grad=True)
    value = distortion(zero, torch.randn(1, 3, 2, 2))
    value.backward()
    assert float(value.detach()) == pytest.approx(1)
    assert torch.isfinite(zero.grad).all()


# ---------------------------------------------------------------------- shares


def by_autograd(student, teacher):
    units = (torch.nn.functional.normalize(x, dim=1) for x in (student, teacher))
    return torch.sub(*units).square().sum(1).mean()


@given(
    seed=st.integers(0, 99),
    near=st.sampled_from([1e-6, 1e-3, 1.0]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    last=st.booleans(),
)
def test_the_gradient_of_a_distortion_is_that_of_its_definition(seed, near, scale, last):
    torch.manual_seed(seed)
    kind = torch.channels_last if last else torch.contiguous_format
    student = (scale * torch.randn(2, 5, 3, 4)).to(memory_format=kind)
    teacher = (student + near * scale * torch.randn(2, 5, 3, 4)).to(memory_format=kind)
    student[0, :, 1, 1] = teacher[1, :, 2, 2] = 0  # features without a direction
    values, gradients = [], []
    for distance in (distortion, by_autograd):
        leaf = student.clone().requires_grad_()
        value = distance(leaf, teacher)
        (3 * value).backward()
        values.append(value.detach())
        gradients.append(leaf.grad)
    assert torch.allclose(*values, rtol=1e-5, atol=1e-12)
    # What both lose is what is left of two unit lengths' difference.
    assert torch.allclose(*gradients, rtol=1e-4, atol=3e-7 / scale)
    assert gradients[0].is_contiguous(memory_format=kind)


distortions = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 4), min_size=1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=st.lists(distortions, min_size=1, max_size=4), adaptive=st.booleans())
def test_shares_are_a_partition_of_one(steps, adaptive):
    weights = AdaptiveWeights(0.5, adaptive)
    for step in steps:
        weights.update(step)
    shares = weights.shares(list(steps[-1]))
    assert shares.keys() == steps[-1].keys()
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= 0 for share in shares.values())


def test_shares_follow_the_distortion():
    weights = AdaptiveWeights(momentum=0.9)
    weights.update({"a": 1.0, "b": 3.0})
    assert weights.shares(["a", "b"]) == pytest.approx({"a": 0.25, "b": 0.75})
    weights.update({"a": 5.0, "b": 3.0})
    assert weights.running == pytest.approx({"a": 1.4, "b": 3.0})
    assert weights.shares(["b"]) == {"b": 1}


def test_without_adaptation_and_without_distortion_shares_are_equal():
    even = AdaptiveWeights(adaptive=False)
    even.update({"a": 1.0, "b": 3.0})
    assert even.shares(["a", "b"]) == {"a": 0.5, "b": 0.5}
    still = AdaptiveWeights()
    still.update({"a": 0.0, "b": 0.0})
    assert still.shares(["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert still.shares([]) == {}


def test_most_effort_goes_where_features_deviate_most():
    student, _, distiller = pair()
    spoil(student.priorDecoder[2], 1.0)
    run(student)
    distiller.loss()
    shares = distiller.weights.shares(list(distiller.weights.running))
    assert max(shares, key=shares.get) == "priorDecoder.2"
    assert shares["priorDecoder.2"] > 0.99


# ---------------------------------------------------------------------- the companion


@pytest.mark.parametrize("source", ["local", "network"])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(source):
    student, _, distiller = pair(source)
    run(student, 3)
    assert float(distiller.loss().detach()) == pytest.approx(0, abs=1e-6)
    assert distiller.weights.running.keys() == set(find_taps(CODEC))


@pytest.mark.parametrize("source", ["local", "network"])
def test_the_student_learns_and_the_teacher_never_does(source):
    student, teacher, distiller = pair(source)
    spoil(student.priorDecoder[2])
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    run(student)
    distiller.loss().backward()
    assert student.priorDecoder[2].weight.grad.any()
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_with_local_truth_a_block_answers_for_its_own_error_alone():
    student, _, distiller = pair("local")
    spoil(student.priorDecoder[0])
    run(student)
    distiller.loss()
    wrong = {name for name, value in distiller.weights.running.items() if value > 1e-6}
    assert wrong == {"priorDecoder.0"}


def test_with_the_networks_truth_errors_that_add_up_are_seen():
    student, _, distiller = pair("network")
    spoil(student.priorDecoder[0])
    run(student)
    distiller.loss()
    wrong = {name for name, value in distiller.weights.running.items() if value > 1e-6}
    assert {"priorDecoder.0", "priorDecoder.2", "entropy_parameters.0"} <= wrong
    assert "mvDecoder_part1.0" not in wrong


def test_only_the_taps_of_the_stages_modules_count():
    student, _, distiller = pair("local", stage=MOTION)
    spoil(student.priorDecoder[0])
    run(student)
    assert float(distiller.loss().detach()) == pytest.approx(0, abs=1e-6)
    modules = {name.split(".")[0] for name in distiller.weights.running}
    assert modules == {m for m in MOTION.modules if any(t.startswith(m) for t in find_taps(CODEC))}


def test_a_stage_that_passes_no_tap_adds_nothing():
    student, _, distiller = pair("local", stage=Stage("flow", ("opticFlow",)))
    run(student)
    assert distiller.loss() == 0.0
    assert distiller.figures() == {}


def test_the_loss_is_the_weighted_mean_over_taps_and_frames():
    student, _, distiller = pair("local", weight=2.0)
    spoil(student.priorDecoder[0])
    spoil(student.priorDecoder[2])
    run(student, 3)
    loss = float(distiller.loss().detach())
    running = distiller.weights.running  # of one step: its own distortions
    shares = distiller.weights.shares(list(running))
    assert loss == pytest.approx(2 * sum(shares[n] * running[n] for n in running), rel=1e-5)
    assert distiller.figures()["distillation"] == pytest.approx(
        sum(running.values()) / len(running)
    )


def test_every_step_starts_anew():
    student, _, distiller = pair("local")
    spoil(student.priorDecoder[0])
    run(student)
    distiller.loss()
    distiller.end_step()
    distiller.begin_step(JOINT, 0.5)
    assert distiller.loss() == 0.0


def test_passes_without_gradients_are_not_compared():
    student, _, distiller = pair("local")
    with torch.no_grad():
        run(student)
    assert distiller.loss() == 0.0


@pytest.mark.parametrize("source", ["local", "network"])
def test_closing_removes_every_hook(source):
    student, teacher, distiller = pair(source)
    distiller.close()
    for codec in (student, teacher):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in codec.modules())
    run(student)
    assert distiller.loss() == 0.0


def test_running_distortions_survive_a_restart():
    student, _, distiller = pair("local")
    spoil(student.priorDecoder[0])
    run(student)
    distiller.loss()
    *_, again = pair("local")
    again.load_state_dict(copy.deepcopy(distiller.state_dict()))
    assert again.weights.running == distiller.weights.running


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="source 'both' is none of"):
        pair("both")


# ---------------------------------------------------------------------- the teacher's own run


def teachers_frames(teacher):
    """What the teacher is given from now on: (frame, reference, rest) by call."""
    calls = []
    teacher.register_forward_pre_hook(
        lambda _m, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    return calls


def test_the_teacher_goes_on_from_its_own_references():
    codec = shaken(toys.Carried())
    student, teacher, distiller = pair("network", codec=codec, stage=codec.stages()[0])
    spoil(student.mix[2])
    calls = teachers_frames(teacher)
    pictures = clip(3)
    first = student(pictures[1:2], Reference(pictures[:1]))
    student(pictures[2:3], first.reference)
    alone = copy.deepcopy(codec).train()
    expected = alone(pictures[1:2], Reference(pictures[:1])).reference
    assert torch.equal(calls[0][0][1].frame, pictures[:1])
    assert torch.equal(calls[1][0][1].feature, expected.feature)
    assert not torch.equal(calls[1][0][1].feature, first.reference.feature)
    # The next step's clip has a reference of its own.
    distiller.end_step()
    distiller.begin_step(codec.stages()[0], 0.5)
    student(pictures[2:3], Reference(pictures[1:2]))
    assert calls[2][0][1].feature is None
    assert torch.equal(calls[2][0][1].frame, pictures[1:2])


@pytest.mark.parametrize("given", ["by position", "by name"])
def test_the_teacher_codes_at_the_students_rate(given):
    codec = shaken(toys.Rated())
    student, *_, distiller = pair("network", codec=codec, stage=codec.stages()[0])
    pictures = clip(2)
    parts = pictures[1:], Reference(pictures[:1])
    coded = student(*parts, 0.5) if given == "by position" else student(*parts, rate=0.5)
    assert coded.frame.requires_grad
    assert float(distiller.loss().detach()) == pytest.approx(0, abs=1e-6)


def test_a_layer_that_runs_twice_is_compared_call_by_call():
    codec = shaken(toys.SharedLayer())
    student, *_, distiller = pair("network", codec=codec, stage=codec.stages()[0])
    run(student, 3)
    assert float(distiller.loss().detach()) == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------------- shrunk students


@pytest.fixture(scope="module")
def shrunk():
    """The taps of a tiny DCVC whose groups have lost every third channel, and that student."""
    channels = find_groups(CODEC)
    kept = {g.name: [c for c in range(g.size) if c % 3 != 1] for g in channels.groups}
    taps = {name: _tap(channels, CODEC, name, kept) for name in find_taps(CODEC)}
    return taps, shrunk_copy(CODEC, kept), kept


def test_a_tap_of_a_shrunk_student_knows_the_channels_at_both_its_ends(shrunk):
    taps, _, kept = shrunk
    tap = taps["mvDecoder_part2.2"]
    assert tap.inputs.tolist() == kept["mvDecoder_part2.0"]
    assert tap.outputs.tolist() == kept["mvDecoder_part2.2"]
    first = taps["mvDecoder_part2.0"]
    assert first.inputs is None  # motion and picture: nothing of that is removed
    assert taps["contextualDecoder_part2.3"].outputs is None


def test_the_local_truth_is_the_teachers_block_on_inputs_filled_up_with_zeros(shrunk):
    taps, student, kept = shrunk
    tap = taps["feature_extract.1"]
    distiller = Distiller(student, copy.deepcopy(CODEC), [tap])
    given = torch.randn(1, len(tap.inputs), 8, 8)
    full = torch.zeros(1, 8, 8, 8)
    full[:, kept["feature_extract.0"]] = given
    expected = distiller.teacher.feature_extract[1](full)
    distiller.begin_step(JOINT, 0.0)
    feature = student.feature_extract[1](given)
    loss = distiller.loss()
    distiller.close()
    right = distortion(feature, expected[:, kept["feature_extract.0"]])
    assert float(loss.detach()) == pytest.approx(float(right.detach()))


def test_a_student_that_only_lost_channels_answers_for_those_inside_its_blocks(shrunk):
    """A removed channel counts as zero: a block of one layer computes what the teacher's would."""
    taps, student, _ = shrunk
    student = copy.deepcopy(student).train()
    distiller = Distiller(student, copy.deepcopy(CODEC), list(taps.values()))
    distiller.begin_step(JOINT, 0.0)
    run(student, 3)
    distiller.loss()
    assert set(distiller.weights.running) == set(taps)
    wrong = {name for name, value in distiller.weights.running.items() if value > 1e-6}
    assert wrong == {
        "feature_extract.1",
        "context_refine.0",
        "contextualDecoder_part1.4",
        "contextualDecoder_part1.7",
        "contextualDecoder_part2.1",
        "contextualDecoder_part2.2",
    }


def test_the_networks_truth_is_compared_in_the_channels_that_are_left(shrunk):
    taps, student, _ = shrunk
    student = copy.deepcopy(student).train()
    distiller = Distiller(student, copy.deepcopy(CODEC), list(taps.values()), "network")
    distiller.begin_step(JOINT, 0.0)
    run(student, 2)
    loss = distiller.loss()
    loss.backward()
    assert 0 < float(loss.detach()) <= 4
    assert student.contextualDecoder_part2[0].weight.grad.any()
