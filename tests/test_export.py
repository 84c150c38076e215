"""ONNX bundles: they compute what torch computes, are whole, and can be counted."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from toys import SubpelChain, shaken

import vcodecs
from lvc.bundle import read_bundle, session
from prune.export import command
from prune.groups.find import find_groups
from prune.groups.shrink import masked_copy, shrunk_copy
from prune.measure.macs import decoder_macs
from prune.measure.onnx_macs import bundle_macs, graph_macs
from prune.onnx_export import bundle
from prune.onnx_export.bundle import Size, example_inputs, export_bundle
from vcodecs import UserError, checkpoints

FIXED = (64, 128)
SYMBOLS = ("motion_hyper", "motion_latent", "latent_hyper", "latent")


@pytest.fixture(scope="module")
def dense():
    """Random weights, but motion of a few pixels and pictures that are not all black and white.

    Rounding errors in values that are far beyond what is shown would count too much.
    """
    codec = shaken(vcodecs.create("dcvc", "tiny"))
    with torch.no_grad():
        for part in (codec.mvDecoder_part1, codec.mvDecoder_part2, codec.contextualDecoder_part2):
            part[-1].weight.mul_(0.1)
    return codec


@pytest.fixture(scope="module")
def shrunk(dense):
    """The same codec with uneven numbers of channels left, and what is left."""
    channels = find_groups(dense)
    kept = {g.name: list(range(i % 2, g.size, 2)) for i, g in enumerate(channels.groups)}
    return shrunk_copy(masked_copy(dense, channels, kept), kept), kept


@pytest.fixture(scope="module")
def dynamic_bundle(dense, tmp_path_factory):
    """The dense decoder for every frame size; asked for at the smallest one."""
    folder = tmp_path_factory.mktemp("dynamic")
    return folder, export_bundle(dense, folder, Size(64, 64))


@pytest.fixture(scope="module")
def fixed_bundle(shrunk, tmp_path_factory):
    """The shrunk decoder for one frame size."""
    folder = tmp_path_factory.mktemp("fixed")
    return folder, export_bundle(shrunk[0], folder, Size(*FIXED, dynamic=False))


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    export_bundle(shaken(SubpelChain()), folder, Size(64, 64, dynamic=False))
    return folder


def largest_difference(codec, folder, height, width):
    """Of onnxruntime to torch over every output of every graph, relative."""
    worst = 0.0
    for graph in codec.decoder_graphs(height, width):
        inputs = example_inputs(graph, seed=7)
        found = session(folder / f"{graph.name}.onnx", threads=1).run(None, inputs)
        with torch.no_grad():
            expected = graph(*(torch.from_numpy(value) for value in inputs.values()))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for a, b in zip(expected, found, strict=True):
            worst = max(worst, float(np.abs(a.numpy() - b).max() / a.abs().max()))
    return worst


# ---------------------------------------------------------------------- agreement


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (192, 64), (64, 320)])
def test_a_dynamic_bundle_computes_what_torch_computes_at_every_size(dense, dynamic_bundle, size):
    folder, told = dynamic_bundle
    assert 0 < told < 1e-4
    assert largest_difference(dense, folder, *size) < 1e-4


def test_a_fixed_bundle_of_a_shrunk_decoder_computes_what_torch_computes(shrunk, fixed_bundle):
    folder, told = fixed_bundle
    assert 0 < told < 1e-4
    assert largest_difference(shrunk[0], folder, *FIXED) < 1e-4


def test_a_fixed_bundle_takes_no_other_size(shrunk, fixed_bundle):
    with pytest.raises(Exception, match="invalid dimensions"):
        largest_difference(shrunk[0], fixed_bundle[0], 64, 192)


@pytest.mark.parametrize("size", [(64, 128), (192, 128)])
def test_the_wiring_in_bundle_json_is_enough_to_decode_a_frame(dense, dynamic_bundle, size):
    folder, _ = dynamic_bundle
    entries = [entry for entry in read_bundle(folder)["graphs"] if "positions" not in entry]
    known = given_tensors(entries, *size)
    for entry in entries:
        feeds = {name: known[name] for name in entry["inputs"]}
        results = session(folder / entry["file"], threads=1).run(None, feeds)
        known |= dict(zip(entry["outputs"], results, strict=True))
    truth = {name: torch.from_numpy(known[name]) for name in (*SYMBOLS, "reference")}
    with torch.no_grad():
        motion = dense.decode_motion(truth["motion_latent"], truth["reference"])
        context = dense.make_context(truth["reference"], motion)
        frame = dense.reconstruct(truth["latent"], context).clamp(0, 1)
    assert known["frame"].shape == (1, 3, *size)
    assert np.abs(known["frame"] - frame.numpy()).max() < 1e-4


def given_tensors(entries, height, width):
    """The symbols and the reference of a frame, of the shapes that the bundle tells."""
    generator = np.random.default_rng(3)
    given = {}
    for entry in entries:
        for name, spec in entry["inputs"].items():
            shape = (1, spec["channels"], height // spec["stride"], width // spec["stride"])
            if name in SYMBOLS:
                given[name] = np.round(generator.normal(0, 2, shape)).astype(np.float32)
            elif name == "reference":
                given[name] = generator.random(shape, np.float32)
    return given


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_a_decoder_whose_results_are_no_numbers_is_refused(tmp_path, spoilt):
    codec = shaken(SubpelChain())
    with torch.no_grad():
        codec.up[2].bias[0] = spoilt
    with pytest.raises(UserError, match="graph picture: onnxruntime differs from torch by inf"):
        export_bundle(codec, tmp_path, Size(64, 64, dynamic=False))


def test_where_onnxruntime_differs_nothing_that_claims_to_be_a_bundle_is_left(
    toy_bundle, tmp_path, monkeypatch
):
    for file in toy_bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(bundle, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="onnxruntime differs from torch"):
        export_bundle(shaken(SubpelChain()), tmp_path, Size(64, 64, dynamic=False))
    with pytest.raises(UserError, match="not a readable bundle"):
        read_bundle(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_exporting_leaves_the_codec_as_it_was(tmp_path):
    codec = shaken(SubpelChain())
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    export_bundle(codec, tmp_path, Size(64, 64, dynamic=False))
    after = codec.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in codec.parameters())


def test_exporting_leaves_denormal_numbers_as_they_were(tmp_path):
    export_bundle(shaken(SubpelChain()), tmp_path, Size(64, 64, dynamic=False))
    assert torch.tensor(1e-40) / 2 > 0


# ---------------------------------------------------------------------- bundle.json


def test_the_bundle_says_what_it_is_for(dynamic_bundle, fixed_bundle, shrunk):
    dynamic, fixed = read_bundle(dynamic_bundle[0]), read_bundle(fixed_bundle[0])
    assert (dynamic["codec"], dynamic["preset"]) == ("dcvc", "tiny")
    assert dynamic["size"] is None
    assert fixed["size"] == list(FIXED)
    widths = {n: spec["channels"] for e in fixed["graphs"] for n, spec in e["inputs"].items()}
    assert widths["context"] == len(shrunk[1]["context_refine.1"])
    assert widths["reference"] == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"7",
        b"{}",
        b'{"format": "leanvc-bundle-1"}',
        b'{"format": "leanvc-bundle-1", "graphs": 3}',
        b'{"format": "leanvc-bundle-1", "graphs": [{"file": "a.onnx"}]}',
        b'{"format": "leanvc-bundle-1", "graphs": [{"file": 3, "sha256": ""}]}',
        b'{"format": "leanvc-bundle-99", "graphs": []}',
        b"[" * 100_000,
    ],
)
def test_a_bundle_json_that_is_none_is_a_user_error_of_one_line(tmp_path, content):
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_bundle(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'bundle.json'}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_a_bundle_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"bundle\.json: not a readable bundle"):
        read_bundle(tmp_path / "none")


@pytest.fixture
def copied(toy_bundle, tmp_path):
    for file in toy_bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_whole_bundle_is_read(copied):
    assert [entry["name"] for entry in read_bundle(copied)["graphs"]] == ["picture"]


def test_an_altered_graph_is_a_user_error(copied):
    graph = copied / "picture.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(UserError, match=r"picture\.onnx: missing, or not the file"):
        read_bundle(copied)


def test_a_missing_graph_is_a_user_error(copied):
    (copied / "picture.onnx").unlink()
    with pytest.raises(UserError, match=r"picture\.onnx: missing, or not the file"):
        read_bundle(copied)


def test_equal_weights_give_equal_hashes(toy_bundle, tmp_path):
    export_bundle(shaken(SubpelChain()), tmp_path, Size(64, 64, dynamic=False))
    assert read_bundle(tmp_path) == read_bundle(toy_bundle)


# ---------------------------------------------------------------------- counting


@pytest.mark.parametrize("size", [(64, 64), (192, 128), (1088, 1920)])
def test_a_dynamic_bundle_holds_the_macs_that_torch_counts_at_every_size(
    dense, dynamic_bundle, size
):
    assert counted(dense, dynamic_bundle[0], *size) == decoder_macs(dense, *size).total


def test_a_bundle_of_a_shrunk_decoder_holds_the_macs_that_torch_counts(shrunk, fixed_bundle, dense):
    macs = counted(shrunk[0], fixed_bundle[0], *FIXED)
    assert macs == decoder_macs(shrunk[0], *FIXED).total
    assert macs < decoder_macs(dense, *FIXED).total / 2


def counted(codec, folder, height, width):
    graphs = codec.decoder_graphs(height, width)
    shapes = {name: list(shape) for g in graphs for name, shape in g.input_shapes().items()}
    return bundle_macs(folder, [graph.name for graph in graphs], shapes)


def model_of(path, kind, weight, given, result, **attributes):
    """A model of one node."""
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    values = np.zeros(weight, np.float32)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


@pytest.mark.parametrize(
    ("kind", "weight", "given", "result", "attributes", "macs"),
    [
        ("Conv", [4, 6, 3, 3], [1, 6, 8, 8], [1, 4, 6, 6], {}, 4 * 6 * 9 * 36),
        ("Conv", [4, 3, 3, 3], [2, 6, 8, 8], [2, 4, 6, 6], {"group": 2}, 2 * 4 * 3 * 9 * 36),
        (
            "ConvTranspose",
            [6, 4, 2, 2],
            [1, 6, 5, 5],
            [1, 4, 10, 10],
            {"strides": [2, 2]},
            6 * 4 * 4 * 25,
        ),
        ("MatMul", [8, 3], [5, 8], [5, 3], {}, 5 * 8 * 3),
        ("Gemm", [3, 8], [5, 8], [5, 3], {"transB": 1}, 5 * 8 * 3),
        ("Mul", [5, 8], [5, 8], [5, 8], {}, 0),
    ],
)
def test_one_node_costs_what_the_formula_says(
    tmp_path, kind, weight, given, result, attributes, macs
):
    path = model_of(tmp_path / "one.onnx", kind, weight, given, result, **attributes)
    assert graph_macs(path, {"x": given}) == macs


# ---------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def checkpoint(dense, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoints.save(dense, path)
    return path


def test_the_command_exports_a_checkpoint_at_the_size_asked_for(
    call, tmp_path, monkeypatch, checkpoint
):
    asked = []

    def note(codec, folder, size, deformable):
        asked.append((codec.name, codec.preset, Path(folder).name, size, deformable))
        return 3e-6

    # The export itself is tested above.
    monkeypatch.setattr("prune.export.export_bundle", note)
    monkeypatch.setattr("prune.export.check_bundle", lambda codec, folder, clip: len(clip) - 1)
    told = "bundle: a (onnxruntime agrees with torch to 3.0e-06, and decodes 2 frames that torch"
    status, out, err = call(tmp_path, command, checkpoint, "a")
    assert (status, out.replace("\n", " ").strip(), err) == (0, f"{told} coded)", "")
    more = ("--fixed", "--size", "640x384", "--deformable", "GridSample")
    call(tmp_path, command, checkpoint, "b", *more)
    assert asked == [
        ("dcvc", "tiny", "a", Size(256, 448, dynamic=True), "DeformConv"),
        ("dcvc", "tiny", "b", Size(384, 640, dynamic=False), "GridSample"),
    ]


@pytest.mark.parametrize(
    "size",
    [
        "",
        "448",
        "448x",
        "x256",
        "0x64",
        "64x0",
        "-64x64",
        "axb",
        "64x64x64",
        "8193x64",
        "9" * 5000 + "x1",
    ],
)
def test_a_size_that_is_none_is_told(call, tmp_path, checkpoint, size):
    status, output, errors = call(tmp_path, command, checkpoint, "out", f"--size={size}")
    assert (status, output) == (2, "")
    assert "write it as WIDTHxHEIGHT, in pixels, at most 8192 each" in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_none_is_told(call, tmp_path, dense):
    (tmp_path / "text.safetensors").write_text("no tensors")
    torch.save(dense.state_dict(), tmp_path / "official.pth")
    data = json.dumps({"__metadata__": {"codec": "none", "preset": "tiny"}}).encode()
    data += b" " * (-len(data) % 8)
    (tmp_path / "other.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    for name, told in [
        ("missing.safetensors", "no such file"),
        ("text.safetensors", "not a readable .safetensors file"),
        ("official.pth", "does not say which codec it is for"),
        ("other.safetensors", "no codec is called 'none'"),
        (".", "no such file"),
    ]:
        status, output, errors = call(tmp_path, command, name, "out")
        assert (status, output) == (2, "")
        assert told in errors
        assert len(errors.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_told(call, tmp_path, checkpoint):
    (tmp_path / "taken").write_text("")
    status, _, errors = call(tmp_path, command, checkpoint, "taken", "--size", "64x64")
    assert status == 2
    assert errors.startswith("error taken")
    assert len(errors.splitlines()) == 1
