"""Files played by other runtimes and at lower precisions: the same symbols, or one line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from playing import FRAMES, assert_same_video, decode, encode, make_coded, pictures

import vcodecs
from lvc import runtimes
from lvc.container import Reader, Writer
from lvc.header import header_bytes, header_from
from lvc.runtimes import Arithmetic, has_openvino, openvino_precisions
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs import UserError

pytestmark = pytest.mark.player
needs_openvino = pytest.mark.skipif(
    not has_openvino(), reason="openvino is not installed: pip install 'leanvc[openvino]'"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a codec whose priors look at pictures and of one whose do not, coded by both."""
    made = make_coded(tmp_path_factory.mktemp("runtimes"), "dcvc", "fvc")
    fvc = vcodecs.codec_of(made / "fvc.safetensors")
    export_bundle(fvc, made / "fvc" / "gridsample", Size(128, 128), "GridSample")
    torch.set_flush_denormal(False)
    return made


def test_idle_threads_of_a_session_leave_the_cores_to_the_next_one(folder):
    opened = runtimes.session(next((folder / "dcvc").glob("*.onnx")), 1)
    torch.set_flush_denormal(False)
    options = opened.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def has_bf16():
    return has_openvino() and "bf16" in openvino_precisions()


def made_for(path):
    with Reader(path) as reader:
        return reader.header.arithmetic


@needs_openvino
@pytest.mark.parametrize("name", ["dcvc", "fvc"])
def test_openvino_plays_what_torch_encoded(folder, name, tmp_path):
    given = ("--bundle", folder / name, "--runtime", "openvino")
    assert decode(folder, name, tmp_path / "openvino.mkv", *given) == 0
    weights = folder / f"{name}.safetensors"
    assert decode(folder, name, tmp_path / "torch.mkv", "--weights", weights) == 0
    assert_same_video(tmp_path / "torch.mkv", tmp_path / "openvino.mkv")


@pytest.mark.skipif(not has_bf16(), reason="OpenVINO has no bf16 here")
def test_pictures_that_nothing_is_read_by_play_in_bf16_from_any_file(folder, tmp_path):
    given = ("--bundle", folder / "fvc", "--runtime", "openvino", "--precision", "bf16")
    assert decode(folder, "fvc", tmp_path / "bf16.mkv", *given) == 0
    assert decode(folder, "fvc", tmp_path / "fp32.mkv", "--bundle", folder / "fvc") == 0
    rough, fine = pictures(tmp_path / "bf16.mkv"), pictures(tmp_path / "fp32.mkv")
    assert len(rough) == FRAMES and not np.array_equal(rough, fine)
    assert np.abs(rough.astype(int) - fine).mean() < 4


@pytest.mark.skipif(not has_bf16(), reason="OpenVINO has no bf16 here")
def test_a_file_made_for_bf16_says_so_and_is_played_so_without_being_told(folder, tmp_path, capfd):
    file, given = tmp_path / "bf16.lvc", ("--bundle", folder / "dcvc")
    low = ("--runtime", "openvino", "--precision", "bf16")
    assert encode(folder, "dcvc", *given, *low, target=file) == 0
    assert (
        made_for(file) == Arithmetic("openvino", "bf16") and made_for(folder / "dcvc.lvc") is None
    )
    assert decode(folder, "dcvc", tmp_path / "a.mkv", *given, source=file) == 0
    assert decode(folder, "dcvc", tmp_path / "b.mkv", *given, *low, source=file) == 0
    assert np.array_equal(pictures(tmp_path / "a.mkv"), pictures(tmp_path / "b.mkv"))
    weights = ("--weights", folder / "dcvc.safetensors")
    for other in (weights, (*given, "--runtime", "onnxruntime", "--precision", "fp32")):
        capfd.readouterr()
        assert decode(folder, "dcvc", tmp_path / "c.mkv", *other, source=file) == 2
        told = capfd.readouterr().err.splitlines()
        assert len(told) == 1 and "made for openvino in bf16" in told[0]
    assert not (tmp_path / "c.mkv").exists()


@pytest.mark.skipif(not has_bf16(), reason="OpenVINO has no bf16 here")
def test_a_plain_file_is_read_in_float32_whatever_is_asked_for(folder, tmp_path):
    """All of DCVC's graphs decide how bits are read."""
    low = ("--bundle", folder / "dcvc", "--runtime", "openvino", "--precision", "bf16")
    assert decode(folder, "dcvc", tmp_path / "asked.mkv", *low) == 0
    plain = ("--bundle", folder / "dcvc", "--runtime", "openvino")
    assert decode(folder, "dcvc", tmp_path / "plain.mkv", *plain) == 0
    assert np.array_equal(pictures(tmp_path / "asked.mkv"), pictures(tmp_path / "plain.mkv"))


@needs_openvino
def test_deformable_convolutions_need_their_other_bundle_on_openvino(folder, tmp_path, capfd):
    alone = tmp_path / "alone"
    shutil.copytree(folder / "fvc", alone, ignore=shutil.ignore_patterns("gridsample"))
    given = ("--bundle", alone, "--runtime", "openvino")
    assert decode(folder, "fvc", tmp_path / "out.mkv", *given) == 2
    assert "export it with --deformable GridSample" in capfd.readouterr().err


def test_a_runtime_that_is_not_installed_is_told_before_anything_is_opened(
    folder, tmp_path, capfd, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.setattr(runtimes, "_core", None)
    given = ("--bundle", folder / "fvc", "--runtime", "openvino")
    assert decode(folder, "fvc", tmp_path / "out.mkv", *given) == 2
    assert "pip install 'openvino>=2025.0'" in capfd.readouterr().err


def test_onnxruntime_has_no_bf16(folder, tmp_path, capfd):
    given = ("--bundle", folder / "fvc", "--precision", "bf16")
    assert decode(folder, "fvc", tmp_path / "out.mkv", *given) == 2
    assert "onnxruntime has no bf16 on CPUs" in capfd.readouterr().err


def test_a_setting_without_a_bundle_is_refused(folder, tmp_path, capfd):
    assert encode(folder, "fvc", "--runtime", "onnxruntime", target=tmp_path / "a.lvc") == 2
    assert "give --bundle as well" in capfd.readouterr().err


# ---------------------------------------------------------------------- in the header

MADE_FOR = Arithmetic("openvino", "int8", "0" * 64)


def header(folder, **changes):
    with Reader(folder / "fvc.lvc") as reader:
        return replace(reader.header, **changes)


def test_only_a_file_that_needs_it_is_of_version_3(folder, tmp_path):
    assert header_bytes(header(folder), tmp_path)[8] == 1
    data = header_bytes(header(folder, arithmetic=MADE_FOR), tmp_path)
    assert data[8] == 3
    assert header_from(data[13:-4], 3, tmp_path).arithmetic == MADE_FOR


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (None, "arithmetic is None"),
        ({}, "arithmetic: missing key"),
        ({"runtime": 3, "precision": "bf16", "graphs": ""}, "arithmetic: runtime is 3"),
        ({"runtime": "x", "precision": "bf16", "graphs": "zz"}, "arithmetic: graphs is 'zz'"),
        ({"runtime": "x", "precision": "y", "graphs": "", "more": 1}, "unknown key 'more'"),
    ],
)
def test_an_arithmetic_that_is_none_is_told(folder, wrong, words, tmp_path):
    data = header_bytes(header(folder, arithmetic=MADE_FOR), tmp_path)
    fields = json.loads(data[13:-4]) | {"arithmetic": wrong}
    with pytest.raises(UserError, match=words):
        header_from(json.dumps(fields).encode(), 3, tmp_path)


def test_an_arithmetic_that_nobody_knows_is_refused_in_one_line(folder, tmp_path, capfd):
    file, unknown = tmp_path / "a.lvc", Arithmetic("abacus", "beads")
    with Writer(file, header(folder, arithmetic=unknown)) as writer:
        writer.write("I", b"")
    given = ("--bundle", folder / "fvc")
    assert decode(folder, "fvc", tmp_path / "out.mkv", *given, source=file) == 2
    assert "made for abacus in beads" in capfd.readouterr().err
