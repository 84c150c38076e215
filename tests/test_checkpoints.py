"""Weights from files: ours come back as they were, strangers' are read with care."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fill import fill_codec
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import vcodecs
from vcodecs import Reference, UserError, checkpoints
from vcodecs.checkpoints import read_metadata
from vcodecs.layers import MaskedConv


@pytest.fixture
def codec():
    """A tiny codec with the same telling weights every time."""
    return fill_codec(vcodecs.create("dcvc", "tiny")).eval()


def load(path):
    return vcodecs.create("dcvc", "tiny", checkpoint=path).eval()


def refusal(path, preset="tiny"):
    """The one line that a user reads when `path` is refused."""
    with pytest.raises(UserError) as caught:
        vcodecs.create("dcvc", preset, checkpoint=path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    assert str(path) in message
    return message


def same_weights(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def coded(codec, seed=0):
    """The codec's picture and bits for one frame."""
    generator = torch.Generator().manual_seed(seed)
    frame, previous = torch.rand(2, 1, 3, 64, 64, generator=generator)
    with torch.no_grad():
        return codec(frame, Reference(previous))


# ---------------------------------------------------------------------- official files


def as_released(state):
    return state


def of_a_parallel_model(state):
    return {f"module.{name}": value for name, value in state.items()}


def with_training_state(state):
    return {"epoch": 3, "state_dict": state, "optimizer": {"lr": 1e-4}}


def with_training_state_of_a_parallel_model(state):
    return with_training_state(of_a_parallel_model(state))


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar"])
@pytest.mark.parametrize(
    "form",
    [
        as_released,
        of_a_parallel_model,
        with_training_state,
        with_training_state_of_a_parallel_model,
    ],
)
def test_official_files_load_in_every_form_they_come_in(form, suffix, codec, tmp_path):
    path = tmp_path / f"model{suffix}"
    torch.save(form(codec.state_dict()), path)
    assert same_weights(load(path), codec)


def test_official_files_load_when_written_by_an_old_torch(codec, tmp_path):
    path = tmp_path / "model.pth.tar"
    torch.save(codec.state_dict(), path, _use_new_zipfile_serialization=False)
    assert same_weights(load(path), codec)


def test_the_official_preset_loads_an_official_file(tmp_path):
    official = vcodecs.create("dcvc")
    torch.save({"state_dict": of_a_parallel_model(official.state_dict())}, tmp_path / "m.pth.tar")
    loaded = vcodecs.create("dcvc", checkpoint=tmp_path / "m.pth.tar")
    assert same_weights(loaded, official)


class Attack:
    """What unpickling without care would run: it leaves a file behind."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("writer", ["torch", "old torch", "pickle"])
def test_a_file_that_carries_code_is_refused_and_its_code_is_not_run(writer, nested, tmp_path):
    path, target = tmp_path / "model.pth.tar", tmp_path / "was run"
    attack = Attack(target)
    content = {"state_dict": {"mvEncoder.0.weight": attack}} if nested else attack
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    message = refusal(path)
    assert not target.exists()
    assert "weights_only" not in message, "never advise to switch the guard off"
    pickle.loads(pickle.dumps(attack))
    assert target.exists(), "the attack would have worked"


@pytest.mark.parametrize("kept", [0, 1, 2, 10, 1000, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth.tar", ".safetensors"])
def test_a_truncated_file_is_refused(suffix, kept, codec, tmp_path):
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        checkpoints.save(codec, path)
    else:
        torch.save(codec.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    refusal(path)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200))
def test_garbage_is_refused(data, tmp_path_factory):
    for suffix, read in ((".pth", checkpoints.read_official), (".safetensors", read_metadata)):
        path = tmp_path_factory.getbasetemp() / f"garbage{suffix}"
        path.write_bytes(data)
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [False, True])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5)
)
def test_no_damage_to_a_file_breaks_the_reader(zipped, changes, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    # Even undamaged this is no state dict, so that nothing but a UserError is right.
    content = {"a": [1.5, "text", (None, True)], "b": {"c": 7}, "weight": torch.arange(4.0)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        checkpoints.read_official(path)
    assert "\n" not in str(caught.value)


def test_a_network_within_a_state_dict_is_found(tmp_path):
    codec = vcodecs.create("dcvc", "tiny")
    torch.save({"state_dict": {"net": codec.state_dict()}}, tmp_path / "nested.pth.tar")
    assert (
        checkpoints.read_official(tmp_path / "nested.pth.tar").keys() == codec.state_dict().keys()
    )


@pytest.mark.parametrize(
    "content",
    [[1, 2], torch.zeros(3), {"weight": 3}, {1: torch.zeros(3)}, {"state_dict": [1]}, "text"],
    ids=["list", "tensor", "numbers", "tensors without names", "no dict inside", "text"],
)
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(content, path)
    assert "state dict" in refusal(path)


# ---------------------------------------------------------------------- strictness


def write(state, path):
    state = {name: value.contiguous() for name, value in state.items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


both_kinds = pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])


@both_kinds
def test_a_missing_tensor_is_named(name, codec, tmp_path):
    state = codec.state_dict()
    del state["mvEncoder.0.weight"]
    write(state, tmp_path / name)
    assert "mvEncoder.0.weight" in refusal(tmp_path / name)


@both_kinds
def test_a_tensor_too_many_is_named(name, codec, tmp_path):
    write(codec.state_dict() | {"extra.weight": torch.zeros(2)}, tmp_path / name)
    assert "extra.weight" in refusal(tmp_path / name)


@both_kinds
@pytest.mark.parametrize("shape", [(16, 2, 5, 5), (16, 2, 3), (288,)])
def test_a_tensor_of_another_shape_is_named(name, shape, codec, tmp_path):
    write(codec.state_dict() | {"mvEncoder.0.weight": torch.zeros(shape)}, tmp_path / name)
    assert "mvEncoder.0.weight" in refusal(tmp_path / name)


def test_another_width_is_refused_in_an_official_file(codec, tmp_path):
    state = codec.state_dict() | {"mvEncoder.0.weight": torch.zeros(15, 2, 3, 3)}
    write(state, tmp_path / "model.pth")
    assert "mvEncoder.0.weight" in refusal(tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        ("mvEncoder.0.weight", (15, 2, 3, 3)),
        ("mvEncoder.0.bias", (15,)),
        ("mvEncoder.1.gamma", (16, 15)),
        ("mvEncoder.1.beta", (15,)),
        ("mvDecoder_part1.0.weight", (16, 15, 3, 3)),
        ("opticFlow.moduleBasic.1.conv2.weight", (8, 7, 7, 7)),
        ("auto_regressive.weight", (32, 15, 5, 5)),
        ("entropy_parameters.4.weight", (0, 42, 1, 1)),
        ("contextualDecoder_part1.0.0.weight", (31, 16, 3, 3)),
        ("bitEstimator_z.f2.a", (1, 7, 1, 1)),
    ],
)
def test_widths_that_do_not_fit_together_are_refused(tensor, shape, codec, tmp_path):
    path = tmp_path / "model.safetensors"
    write(codec.state_dict() | {tensor: torch.zeros(shape)}, path)
    assert "fit together" in refusal(path)


@both_kinds
def test_weights_of_another_network_are_refused_in_few_words(name, tmp_path):
    write({f"layers.{i}.weight": torch.zeros(2) for i in range(300)}, tmp_path / name)
    assert "opticFlow" in refusal(tmp_path / name)


def test_weights_of_another_preset_or_codec_are_refused_by_their_metadata(codec, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(codec, path)
    message = refusal(path, preset="small")
    assert "tiny" in message and "small" in message
    checkpoints.save(codec, path, notes={"codec": "elephant"})
    assert "elephant" in refusal(path)


@pytest.mark.parametrize("checkpoint", ["no_such_weights", "no/such/file.pth", "", "."])
def test_a_checkpoint_that_is_not_there_is_refused(checkpoint):
    assert "no such file" in refusal(checkpoint)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_folder_is_no_checkpoint(name, tmp_path):
    (tmp_path / name).mkdir()
    refusal(tmp_path / name)


# ---------------------------------------------------------------------- our own files


def test_what_is_saved_comes_back_exactly(codec, tmp_path):
    checkpoints.save(codec, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert same_weights(loaded, codec)
    assert torch.equal(coded(loaded).frame, coded(codec).frame)


def test_half_precision_takes_half_the_bytes_and_comes_back_as_float32(codec, tmp_path):
    checkpoints.save(codec, tmp_path / "full.safetensors")
    checkpoints.save(codec, tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    assert 0.5 < sizes[1] / sizes[0] < 0.53
    loaded = load(tmp_path / "half.safetensors").state_dict()
    for name, value in codec.state_dict().items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], value.half().float()), name
    assert codec.mvEncoder[0].weight.dtype == torch.float32, "saving leaves the codec alone"


def test_the_metadata_says_what_the_weights_are_for(codec, tmp_path):
    path = tmp_path / "model.safetensors"
    kept = {"features": [0, 2, 5]}
    checkpoints.save(codec, path, kept=kept, notes={"lambda": "1024"})
    metadata = read_metadata(path)
    assert json.loads(metadata.pop("kept")) == kept
    assert metadata == {
        "format": checkpoints.FORMAT,
        "codec": "dcvc",
        "preset": "tiny",
        "lambda": "1024",
    }


def test_a_file_of_ours_needs_nothing_of_ours_to_be_read(codec, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(codec, path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(codec.state_dict())


def test_metadata_of_others_files_is_empty_and_of_unreadable_ones_an_error(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert read_metadata(tmp_path / "plain.safetensors") == {}
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.safetensors"):
        read_metadata(tmp_path / "broken.safetensors")


def test_a_save_that_fails_leaves_the_old_file(codec, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(codec, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoints.save(codec, path, notes={"number": 3})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---------------------------------------------------------------------- shrunk codecs


def narrow(codec, kept):
    """Cut the channels between two convolutions of the motion decoder, and motion latents."""
    state = codec.state_dict()
    inner, latents = kept["inner"], kept["latents"]
    both_halves = latents + [16 + i for i in latents]
    cuts = {
        ("mvDecoder_part2.0.weight", 0): inner,
        ("mvDecoder_part2.0.bias", 0): inner,
        ("mvDecoder_part2.2.weight", 1): inner,
        ("mvEncoder.6.weight", 0): latents,
        ("mvEncoder.6.bias", 0): latents,
        ("mvpriorEncoder.0.weight", 1): latents,
        ("auto_regressive_mv.weight", 1): latents,
        ("auto_regressive_mv.mask", 1): latents,
        ("entropy_parameters_mv.4.weight", 0): both_halves,
        ("entropy_parameters_mv.4.bias", 0): both_halves,
        ("mvDecoder_part1.0.weight", 0): latents,
        ("bitEstimator_z.f1.h", 1): list(range(8)),
    }
    for (name, dimension), channels in cuts.items():
        state[name] = state[name].index_select(dimension, torch.tensor(channels))
    checkpoints.resize(codec, state)
    codec.load_state_dict(state)
    return codec


KEPT = {"inner": [0, 1, 3, 6, 7], "latents": [0, 1, 2, 5, 6, 8, 9, 11, 12, 13, 14]}


def test_a_shrunk_codec_is_rebuilt_from_its_file_alone(codec, tmp_path):
    path = tmp_path / "shrunk.safetensors"
    shrunk = narrow(codec, KEPT)
    checkpoints.save(shrunk, path, kept=KEPT)
    loaded = load(path)
    assert same_weights(loaded, shrunk)
    assert torch.equal(coded(loaded).frame, coded(shrunk).frame)
    assert torch.equal(coded(loaded).total_bits(), coded(shrunk).total_bits())
    assert json.loads(read_metadata(path)["kept"]) == KEPT
    assert loaded.mvDecoder_part2[0].out_channels == 5
    assert loaded.mvDecoder_part2[2].in_channels == 5
    assert loaded.mvDecoder_part1[0].in_channels == 11
    assert loaded.auto_regressive_mv.mask.shape[1] == 11
    shapes = {g.name: g.input_shapes() for g in loaded.decoder_graphs(64, 64)}
    assert shapes["motion_parameters"]["motion_latent"] == (1, 11, 4, 4)


def test_a_shrunk_codec_can_be_trained_again(codec, tmp_path):
    checkpoints.save(narrow(codec, KEPT), tmp_path / "shrunk.safetensors", half=True)
    loaded = vcodecs.create("dcvc", "tiny", checkpoint=tmp_path / "shrunk.safetensors")
    assert loaded.training, "loading leaves the mode as it was"
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    result = loaded(torch.rand(1, 3, 64, 64), Reference(torch.rand(1, 3, 64, 64)))
    (result.frame.mean() + result.total_bits().mean()).backward()
    assert loaded.mvDecoder_part2[0].weight.grad.shape[0] == 5


def test_loading_a_shrunk_codec_draws_no_random_numbers(codec, tmp_path):
    checkpoints.save(narrow(codec, KEPT), tmp_path / "shrunk.safetensors")
    fresh = vcodecs.create("dcvc", "tiny")
    before = torch.get_rng_state()
    checkpoints.load_into(fresh, tmp_path / "shrunk.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(widths=st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_resizing_gives_every_layer_the_widths_of_its_tensors(widths):
    def network(a, b, c, d):
        return nn.Sequential(nn.Conv2d(a, b, 3), nn.ConvTranspose2d(b, c, 3), MaskedConv(c, d))

    wanted, resized = network(*widths), network(4, 5, 6, 7)
    checkpoints.resize(resized, wanted.state_dict())
    resized.load_state_dict(wanted.state_dict())
    x = torch.rand(1, widths[0], 6, 6)
    assert torch.equal(resized(x), wanted(x))
    assert repr(resized) == repr(wanted)


# ---------------------------------------------------------------------- bundled weights


def test_bundled_weights_are_found_by_their_name(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    checkpoints.save(codec, tmp_path / "dcvc_mine.safetensors")
    assert same_weights(load("dcvc_mine"), codec)
    with pytest.raises(UserError, match="dcvc_mine"):
        vcodecs.create("dcvc", "tiny", checkpoint="dcvc_other")


def test_a_folder_of_the_same_name_does_not_hide_bundled_weights(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "bundled")
    checkpoints.save(codec, tmp_path / "bundled" / "dcvc_mine.safetensors")
    (tmp_path / "dcvc_mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert same_weights(load("dcvc_mine"), codec)


@pytest.mark.parametrize(
    "path", sorted(checkpoints.BUNDLED.glob("*.safetensors")), ids=lambda path: path.name
)
def test_all_weights_in_the_package_load(path):
    metadata = read_metadata(path)
    codec = vcodecs.create(metadata["codec"], metadata["preset"], checkpoint=path.stem)
    with torch.no_grad():
        frame, previous = torch.rand(2, 1, 3, 64, 64)
        result = codec.eval()(frame, Reference(previous), codec.rates()[0])
    assert result.frame.isfinite().all() and result.total_bits().isfinite().all()
