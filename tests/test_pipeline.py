"""The wiring of a run: each step's gates stand in its way, and a refusal leaves no result."""

import copy
import json

import pytest
import torch
from recipe_text import load, write
from toys import shaken

import vcodecs
from lvc.bundle import BUNDLE
from prune.groups.shrink import masked_copy, shrunk_copy
from prune.pipeline import compress, work
from prune.pipeline.job import Job
from prune.pipeline.steps import RECORD, Steps, read_json, write_json
from vcodecs import UserError, checkpoints


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A run of a tiny DCVC whose teacher has weights under which every channel matters."""
    folder = tmp_path_factory.mktemp("job")
    checkpoints.save(shaken(vcodecs.create("dcvc", "tiny")), folder / "mine.safetensors")
    small = ["export.height=64", "export.width=64", "export.dynamic=false"]
    recipe = load(write(folder), f"codec.checkpoint={folder / 'mine.safetensors'}", *small)
    return Job(recipe, folder)


@pytest.fixture(scope="module")
def sparse(job, tmp_path_factory):
    """What a sparse training leaves: the masked codec, and which channels to keep."""
    folder = tmp_path_factory.mktemp("sparse")
    kept = job.one_shot()
    write_json(folder / "kept.json", kept)
    checkpoints.save(masked_copy(job.teacher, job.channels, kept), folder / work.WEIGHTS)
    return folder


def spoilt(codec):
    """The same codec, but for a decoder whose features are half as large again."""
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.get_submodule("contextualDecoder_part2")[0].weight.mul_(1.5)
        other.get_submodule("mvDecoder_part1")[0].weight.mul_(1.5)
        for layer in other.get_submodule("bitEstimator_z").parameters():
            layer.mul_(0.5)
    return other


def refused(folder, name, step):
    """The error of a step that is carried out as a run does it; whether it left any result."""
    with pytest.raises(UserError) as caught:
        Steps(folder)(name, None, step)
    assert not json.loads((folder / name / RECORD).read_text())["done"]
    return str(caught.value), {path.name for path in (folder / name).iterdir()} - {RECORD}


# ---------------------------------------------------------------------- shrink


@pytest.fixture
def two_threads():
    """With one thread a tiny codec and its shrunk copy are equal to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_shrunk_codec_is_saved_with_how_far_it_is_from_the_masked_one(
    job, sparse, tmp_path, two_threads
):
    work.shrink(job, sparse, tmp_path)
    assert 0 < read_json(tmp_path / "parity.json")["masked_vs_shrunk"] < 1e-5
    shrunk = job.load(tmp_path / work.WEIGHTS)
    kept = read_json(sparse / "kept.json")
    layer = "contextualDecoder_part2.0"
    assert shrunk.get_submodule(layer).out_channels == len(kept[layer])


def test_a_shrunk_codec_of_other_pictures_is_refused(job, sparse, tmp_path, monkeypatch):
    monkeypatch.setattr(compress, "shrunk_copy", lambda *given: spoilt(shrunk_copy(*given)))
    problem, left = refused(tmp_path, "shrink", lambda folder: work.shrink(job, sparse, folder))
    assert "the shrunk codec differs from the masked one" in problem
    assert left == set()


def test_a_shrunk_codec_that_cannot_read_the_masked_ones_bits_is_refused(
    job, sparse, tmp_path, monkeypatch
):
    monkeypatch.setattr(compress, "shrunk_copy", lambda *given: spoilt(shrunk_copy(*given)))
    monkeypatch.setattr(compress, "check_same", lambda *_: 1e-9)
    problem, left = refused(tmp_path, "shrink", lambda folder: work.shrink(job, sparse, folder))
    assert "the shrunk codec cannot decode what torch codes" in problem
    assert left == set()


# ---------------------------------------------------------------------- export


def test_an_exported_bundle_has_decoded_real_frames(job, tmp_path):
    work.export(job, job.teacher, tmp_path)
    parity = read_json(tmp_path / "parity.json")
    assert parity["decoded_frames"] > 0
    assert 0 < parity["torch_vs_onnx"] < 1e-4


def test_a_bundle_that_cannot_decode_what_torch_codes_is_refused(job, tmp_path, monkeypatch):
    export_bundle = work.export_bundle

    def export_another(codec, *rest):
        return export_bundle(spoilt(codec), *rest)

    monkeypatch.setattr(work, "export_bundle", export_another)
    problem, left = refused(tmp_path, "onnx", lambda folder: work.export(job, job.teacher, folder))
    assert "cannot decode what torch codes" in problem
    assert not left & {BUNDLE, "parity.json"}
