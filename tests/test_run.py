"""Whole runs from the command line, on a decoder and clips that are as small as they can be."""

import json
import shutil
import signal
import time

import pytest
import torch
from whole_runs import (
    ALL,
    WEIGHTS,
    finish,
    folder_with_recipe,
    killed_and_started_again,
    start,
    trained,
    wait_for_saves,
)

import vcodecs
from prune import compare
from prune.cli import OUT_OF_MEMORY, explanation
from prune.measure.macs import decoder_macs
from prune.report import load_report
from prune.run import command
from prune.training.saved_state import STATE
from vcodecs import UserError, checkpoints

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------------- killed and started again


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_while_it_sparsifies_ends_with_the_same_bytes(finished, tmp_path, seed):
    folder = folder_with_recipe(tmp_path)
    killed_and_started_again(folder, seed)
    assert trained(folder) == trained(finished[0])


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_answered_with_one_line_and_the_run_can_go_on(tmp_path, number, expected):
    folder = folder_with_recipe(tmp_path)
    process = start(folder, "small.yaml")
    wait_for_saves(process, folder / "out" / "sparse" / STATE, 1)
    process.send_signal(number)
    status, _, errors = finish(process)
    assert status == expected
    last = errors.splitlines()[-1]
    assert last.startswith("stopped ") and last.endswith("the same command goes on from here")
    assert "Traceback" not in errors
    assert (folder / "out" / "sparse" / STATE).exists()


# ---------------------------------------------------------------------- a finished run


def test_a_run_tells_its_steps_and_ends_with_its_result(finished):
    _, output, errors = finished
    lines = output.splitlines()
    assert [line for line in lines if line in ALL] == ALL
    assert lines[-1] == "report:  out/report.html"
    assert any(line.startswith("decoder: ") and "50.0% fewer" in line for line in lines)
    # Nothing but our own warning: no library's notices.
    (warning,) = errors.splitlines()
    assert warning.startswith("warning codec.checkpoint is not set")


def test_the_report_holds_what_was_asked_for(finished):
    out = finished[0] / "out"
    report = load_report(out)
    assert (report.codec, report.preset) == ("dcvc", "tiny")
    assert report.setting("prune", "budget") == 0.5
    assert (report.macs.height, report.macs.width) == (64, 128)
    assert report.macs.decoder.reduction == pytest.approx(0.5, abs=0.01)
    assert report.macs.onnx.dense == report.macs.decoder.dense
    assert report.macs.onnx.sparse == report.macs.decoder.sparse
    assert 0 < report.parity.masked_vs_shrunk <= 1e-5
    assert report.parity.decoded_frames > 0
    assert report.parity.torch_vs_onnx <= 1e-4
    assert report.parameters.total.sparse < report.parameters.total.dense
    assert [entry.dataset for entry in report.quality] == ["procedural"]
    anchors = report.quality[0].anchors
    assert [(one.codec, one.qp) for one in anchors] == [
        (f"{codec} medium", qp) for codec in ("x264", "x265") for qp in (22, 27, 32, 37)
    ]
    assert report.latency[0].threads == 1
    assert set(report.times) == set(ALL)
    assert "<svg" in (out / "report.html").read_text()
    assert "# " in (out / "report.md").read_text()


def test_the_report_agrees_with_the_final_checkpoint(finished):
    out = finished[0] / "out"
    report = load_report(out)
    path = out / "finetune" / WEIGHTS
    sparse = vcodecs.create("dcvc", "tiny", path)
    counted = decoder_macs(sparse, 64, 128)
    assert counted.total == report.macs.decoder.sparse
    assert {
        n: pair.sparse for n, pair in report.macs.decoder.by_module.items()
    } == counted.by_module
    kept = json.loads(checkpoints.read_metadata(path)["kept"])
    shown = {group["name"]: group["sparse"] for group in raw(out)["channels"]["groups"]}
    assert {name: len(channels) for name, channels in kept.items()} == shown
    for name, channels in kept.items():
        layer = sparse.get_submodule(name)
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.out_channels == len(channels)


def raw(out):
    return json.loads((out / "report.json").read_text())


def test_the_curves_cover_all_phases_and_the_budget_is_approached(finished):
    training = raw(finished[0] / "out")["training"]
    assert [curve["stage"] for curve in training] == ["1 motion", "2 joint", "1 joint"]
    assert training[1]["step"] == [0, 5]
    assert training[1]["budget"][-1] < training[0]["budget"][0]


def test_training_state_and_temporary_files_are_gone(finished):
    names = {path.name for path in (finished[0] / "out").rglob("*")}
    assert STATE not in names
    assert not [name for name in names if name.startswith(".")]


def test_the_same_command_again_skips_every_step(finished, call):
    folder = finished[0]
    before = results(folder)
    start = time.monotonic()
    status, output, _ = call(folder, command, "small.yaml")
    seconds = time.monotonic() - start
    assert status == 0
    assert [line for line in output.splitlines() if "done before" in line] == [
        f"{name}: done before" for name in ALL
    ]
    assert results(folder) == before
    assert seconds < sum(load_report(folder / "out").times.values())


def results(folder):
    """When each file of a step was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*/*")}


def test_a_changed_setting_redoes_the_steps_behind_it_alone(finished, tmp_path, call):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)

    def redone(*overrides):
        status, output, errors = call(copy, command, "small.yaml", *overrides)
        assert status == 0, errors
        return [line for line in output.splitlines() if line in ALL]

    assert redone("measure.runs=2", "train.checkpoint_seconds=9") == ["measure"]
    assert load_report(copy / "out").latency[0].runs == 2
    assert redone("measure.runs=2", "evaluate.gop=3") == ["evaluate"]


def test_the_run_can_be_compared(finished, capsys):
    out = str(finished[0] / "out")
    assert compare.main([out, out]) == 0
    assert "50.0 %" in capsys.readouterr().out


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.yaml"], "error recipe none.yaml: cannot be read (No such file or directory)"),
        (["small.yaml", "prune.budget"], "write it as dotted.key=value"),
        (["small.yaml", "prune.budget=0"], "error override 'prune.budget=0': prune.budget: "),
        (["small.yaml", "codec.name=x"], "error override 'codec.name=x': codec.name: no codec"),
        (["small.yaml", "data.eval=/no/such"], "data.eval.0: /no/such: no such file or folder"),
        (["small.yaml", "output=small.yaml"], "output: small.yaml is a file"),
        (["small.yaml", "output=small.yaml/x"], "error small.yaml/x"),
        (["small.yaml", "output=/proc/none"], "error /proc/none"),
        (["small.yaml", "output=taken"], "taken/teacher: holds files that no run has made"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(tmp_path, call, arguments, told):
    folder = folder_with_recipe(tmp_path)
    (folder / "taken" / "teacher").mkdir(parents=True)
    (folder / "taken" / "teacher" / "notes.txt").write_text("")
    before = sorted(folder.rglob("*"))
    status, output, errors = call(folder, command, *arguments)
    lines = [line for line in errors.splitlines() if not line.startswith("warning")]
    assert (status, output) == (2, "")
    assert len(lines) == 1
    assert told in lines[0]
    assert sorted(folder.rglob("*")) == before


def test_the_process_ends_with_status_2_and_one_line_too(tmp_path):
    status, output, errors = finish(start(folder_with_recipe(tmp_path), "small.yaml", "seed=-1"))
    assert (status, output) == (2, "")
    assert errors == (
        "error override 'seed=-1': seed: Input should be greater than or equal to 0 (it is -1)\n"
    )


def test_a_command_without_arguments_says_how_it_is_used(tmp_path, call):
    status, _, errors = call(tmp_path, command)
    assert status == 2
    assert "usage: python -m prune.run" in errors


def test_what_the_surroundings_lack_is_told_without_a_stack_trace(tmp_path):
    assert explanation(UserError("a\nb")) == ["a", "b"]
    assert explanation(MemoryError()) == [OUT_OF_MEMORY]
    assert explanation(torch.OutOfMemoryError("CUDA out of memory")) == [OUT_OF_MEMORY]
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert explanation(caught.value) == [OUT_OF_MEMORY]
    full = OSError(28, "No space left on device")
    assert explanation(full) == ["the disk: No space left on device"]
    with pytest.raises(OSError) as missing:
        (tmp_path / "none").read_text()
    assert explanation(missing.value) == [f"{tmp_path / 'none'}: No such file or directory"]
    for fault_of_ours in (ValueError("x"), RuntimeError("shapes differ"), KeyError("x")):
        assert explanation(fault_of_ours) is None
