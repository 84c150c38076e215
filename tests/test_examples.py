"""The examples run from beginning to end, with fewer steps."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

import vcodecs

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example as from the command line; what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_a_codec_of_ones_own(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run("own_codec.py", "--steps", 3)
    assert "Channels that go together" in told and "features" in told
    assert "fewer)" in told and " dB, " in told
    assert (tmp_path / "residuals.safetensors").is_file()


@pytest.mark.slow
def test_pruning_step_by_step_in_python(run, tmp_path):
    told = run("prune_in_python.py", tmp_path / "out", "--one-shot")
    assert "fewer)" in told and " dB, " in told
    assert (tmp_path / "out" / "weights.safetensors").is_file()
    assert (tmp_path / "out" / "onnx" / "bundle.json").is_file()


@pytest.mark.slow
def test_sparse_training_and_fine_tuning_in_python(run, tmp_path):
    told = run("prune_in_python.py", tmp_path / "out", "--steps", 2)
    assert "fewer)" in told and " dB, " in told
    assert (tmp_path / "out" / "onnx" / "bundle.json").is_file()


def test_an_image_codec_of_compressais_zoo(run):
    pytest.importorskip("compressai", reason="CompressAI is not installed on this Python")
    told = run("compressai_image.py", "--steps", 3)
    assert "g_s of 128x128: " in told and "decoded a picture from" in told


def test_compressais_ssf2020(run):
    pytest.importorskip("compressai", reason="CompressAI is not installed on this Python")
    told = run("compressai_ssf2020.py")
    assert told.count(" MMAC at 128x128") == 3
    assert "coded and decoded 2 frames with the shrunk decoders" in told


def test_the_official_dcvc_hem(run, tmp_path):
    # A file as the authors' is, but smaller and with other weights.
    torch.save(vcodecs.create("dcvc_hem", "tiny").state_dict(), tmp_path / "hem.pth.tar")
    paths = tmp_path / "hem.pth.tar", tmp_path / "out"
    told = run("official_dcvc_hem.py", *paths, "--preset", "tiny", "--align", 1, "--runs", 0)
    assert "MACs of the decoder, 1920x1088: " in told and "fewer)" in told
    assert (tmp_path / "out" / "weights.safetensors").is_file()
