"""Compression from Python, step by step, and the roof package `leanvc`."""

import subprocess
import sys

import pytest
import torch
from toys import clip, shaken

import leanvc
import prune
import vcodecs
from lvc.bundle import read_bundle
from prune.interface import as_source
from prune.measure.macs import decoder_macs
from vcodecs import UserError, checkpoints

SIZE = (64, 128)
CLIPS = [clip(4, seed=1), clip(5, seed=2)]


@pytest.fixture(scope="module")
def codec():
    return shaken(vcodecs.create("dcvc", "tiny")).eval()


@pytest.fixture(scope="module")
def plan(codec):
    return prune.plan(codec, budget=0.5, align=1, size=SIZE, show=False)


@pytest.fixture(scope="module")
def sparse(codec, plan):
    return prune.sparsify(codec, plan, CLIPS, steps=4, batch=1, crop=64, stage="joint")


@pytest.fixture(scope="module")
def small(sparse):
    return prune.shrink(sparse)


# ---------------------------------------------------------------------- step by step


def test_a_plan_tells_groups_macs_and_reasons(plan):
    told = str(plan)
    assert "contextualDecoder_part2.0" in told
    assert "MACs of the decoder for a frame of 128x64" in told
    assert "Layers whose output channels all stay" in told


def test_a_plan_is_printed_where_it_is_asked_for(codec, capsys):
    shown = prune.plan(codec, budget=0.5, align=1, size=SIZE)
    assert capsys.readouterr().out.strip() == str(shown).strip()


def test_sparse_training_meets_the_budget_and_leaves_the_dense_codec_alone(codec, sparse):
    kept_as_it_was = sparse.dense.state_dict()
    assert all(torch.equal(v, kept_as_it_was[k]) for k, v in codec.state_dict().items())
    assert not any("parametrizations" in key for key in codec.state_dict())
    kept = torch.tensor([len(sparse.kept[g.name]) for g in sparse.plan.channels.groups])
    assert float(sparse.plan.cost.fraction(kept)) == pytest.approx(0.5, abs=0.01)
    assert sparse.curves[-1]["stage"] == "joint"


def test_the_teacher_that_a_sparse_codec_remembers_is_the_codec_as_it_was(sparse):
    assert not any(module.training for module in sparse.dense.modules())
    assert all(parameter.requires_grad for parameter in sparse.dense.parameters())


def test_the_shrunk_codec_has_half_the_macs(codec, small):
    dense, left = (decoder_macs(one, *SIZE).total for one in (codec, small))
    assert left / dense == pytest.approx(0.5, abs=0.01)


def test_one_shot_needs_no_data(codec):
    plan = prune.plan(codec, budget=0.5, align=1, size=SIZE, method="one-shot", show=False)
    small = prune.shrink(prune.sparsify(codec, plan))
    macs = [decoder_macs(one, *SIZE).total for one in (codec, small)]
    assert macs[1] / macs[0] == pytest.approx(0.5, abs=0.01)


def test_fine_tuning_changes_weights_and_no_widths(small, sparse):
    tuned = prune.finetune(small, sparse, CLIPS, steps=2, batch=1, crop=64)
    old, new = small.state_dict(), tuned.state_dict()
    assert {key: value.shape for key, value in old.items()} == {k: v.shape for k, v in new.items()}
    assert not torch.equal(old["contextualDecoder_part2.0.weight"],
                           new["contextualDecoder_part2.0.weight"])  # fmt: skip


def test_a_shrunk_codec_is_saved_and_comes_back(small, tmp_path):
    vcodecs.save(small, tmp_path / "small.safetensors")
    again = vcodecs.codec_of(tmp_path / "small.safetensors")
    assert all(torch.equal(value, again.state_dict()[k]) for k, value in small.state_dict().items())


def test_export_writes_a_bundle(small, tmp_path):
    assert prune.export(small, tmp_path / "b", size=SIZE, dynamic=False) == tmp_path / "b"
    assert read_bundle(tmp_path / "b")["codec"] == "dcvc"


def test_a_comparison_has_macs_time_and_quality(codec, small):
    found = prune.compare(
        codec, small, CLIPS, frames=3, intra="hevc:qp=30", runs=2, size=SIZE, latency_size=(64, 64)
    )
    assert found.macs == tuple(decoder_macs(one, *SIZE).total for one in (codec, small))
    assert found.latency["speedup"]["median"] > 0
    (point,) = found.quality["points"]
    assert point["dense"]["bpp"] > 0
    told = str(found)
    assert "MACs of the decoder, 128x64" in told and "dB" in told and "x (p10" in told


def test_only_what_is_asked_for_is_measured(codec, small):
    found = prune.compare(codec, small, runs=0, size=SIZE)
    assert found.latency is None and found.quality is None


# ---------------------------------------------------------------------- what users do wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0.0}, r"budget: .*greater than 0 \(it is 0.0\)"),
        ({"budget": 0.001}, "at least .* of the MACs stay"),
        ({"budget": 0.5, "method": "magic"}, "method: .*'gradient-decay'"),
    ],
)
def test_a_plan_that_cannot_be_is_explained(codec, arguments, message):
    with pytest.raises(UserError, match=message):
        prune.plan(codec, align=1, size=SIZE, show=False, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "training needs clips"),
        ({"data": CLIPS, "stage": "dance"}, "stage 'dance': dcvc has flow, motion"),
        ({"data": CLIPS, "epochs": 3}, "epochs: no such argument; there are: batch, crop"),
        ({"data": CLIPS, "lagrangian": [1, 2]}, "lagrangian: codec dcvc has 1 rate point"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data": CLIPS, "crop": 128}, "none of its 2 clips has .* 128x128 pixels"),
    ],
)
def test_a_training_that_cannot_be_is_explained(codec, plan, arguments, message):
    with pytest.raises(UserError, match=message):
        prune.sparsify(codec, plan, steps=1, **arguments)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "no clip given"),
        ([torch.zeros(2, 64, 64)], r"clip 0: \(T, 3, H, W\) is expected"),
        ([CLIPS[0], torch.full((2, 3, 64, 64), 255.0)], r"clip 1: numbers in \[0, 1\] or uint8"),
        ([torch.full((2, 3, 64, 64), torch.nan)], r"clip 0: numbers in \[0, 1\]"),
    ],
)
def test_clips_that_are_none_are_refused(clips, message):
    with pytest.raises(UserError, match=message):
        as_source(clips)


# ---------------------------------------------------------------------- one word for all


def test_the_roof_has_the_steps_and_the_codecs():
    assert leanvc.__version__
    assert leanvc.create is vcodecs.create
    assert leanvc.plan is prune.plan and leanvc.shrink is prune.shrink


def leanvc_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "leanvc", *map(str, arguments)], capture_output=True, text=True
    )


def test_help_needs_no_torch_and_names_every_command():
    done = leanvc_command("--help")
    assert done.returncode == 0
    for name in ("run", "plan", "train", "prepare", "export", "compare", "encode", "info"):
        assert f"  {name}" in done.stdout or f", {name}" in done.stdout


def test_an_unknown_command_is_named():
    done = leanvc_command("dance")
    assert done.returncode == 2 and "no command is called 'dance'" in done.stderr


def test_a_command_gets_the_rest_of_the_line(tmp_path):
    done = leanvc_command("plan", tmp_path / "none.yaml")
    assert done.returncode == 2 and "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    done = leanvc_command("compare", tmp_path)
    assert done.returncode == 2 and str(tmp_path) in done.stderr


def test_a_checkpoint_says_its_preset_itself(codec, tmp_path):
    checkpoints.save(codec, tmp_path / "tiny.safetensors")
    assert vcodecs.create("dcvc", checkpoint=tmp_path / "tiny.safetensors").preset == "tiny"
