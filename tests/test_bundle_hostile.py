"""Broken and forged bundles end in one line that says what is wrong and where, never in a trace.

Hashes are made anew after each change, so that it is the content that has to be looked at.
"""

import copy
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import hem
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from playing import HEIGHT, WIDTH, make_coded, pictures

from lvc import coder
from lvc.bundle import BundleNetworks, read_bundle
from lvc.container import Header, Reader, Writer
from lvc.decode import main
from lvc.errors import UserError
from lvc.intra import create_pictures
from lvc.pictures import padded
from lvc.program import Step, code_frame, decompress
from lvc.runtimes import Setting
from prune.onnx_export.bundle import Size, export_bundle

SIDES = (128, 128)
INTEGER = TensorProto.INT64


@dataclass
class Forged:
    """A copy of a bundle whose files can be altered; see `forge`."""

    folder: Path
    bundle: dict
    entropy: dict

    def write(self):
        """Write both JSON files, with the hashes of what there is now."""
        coding = self.bundle.get("coding")
        (self.folder / "entropy.json").write_text(json.dumps(self.entropy))
        parts = self.bundle["graphs"] if isinstance(self.bundle.get("graphs"), list) else []
        entropy = [coding["entropy"]] if isinstance(coding, dict) and "entropy" in coding else []
        for part in (*parts, *entropy):
            if isinstance(part, dict) and (self.folder / str(part.get("file"))).is_file():
                data = (self.folder / part["file"]).read_bytes()
                part["sha256"] = hashlib.sha256(data).hexdigest()
        (self.folder / "bundle.json").write_text(json.dumps(self.bundle))
        return self.folder

    @property
    def steps(self):
        return self.bundle["coding"]["steps"]

    def graph(self, name):
        return next(entry for entry in self.bundle["graphs"] if entry["name"] == name)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """fvc: a bundle; fvc.lvc: what it decodes."""
    return make_coded(tmp_path_factory.mktemp("video"), "fvc")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A bundle of learned I frames: it has two-step latents and quantisers."""
    folder = tmp_path_factory.mktemp("learned")
    export_bundle(hem.lively(hem.INTRA), folder, Size(*SIDES))
    return folder


@pytest.fixture
def forge(tmp_path):
    def copied(folder):
        place = tmp_path / "bundle"
        place.mkdir()
        for path in folder.iterdir():
            (place / path.name).write_bytes(path.read_bytes())
        bundle, entropy = (
            json.loads((place / name).read_text()) for name in ("bundle.json", "entropy.json")
        )
        return Forged(place, bundle, entropy)

    return copied


def refused(folder):
    """What the user is told of a bundle, in one line."""
    with pytest.raises(UserError) as caught:
        BundleNetworks(folder, setting=Setting(threads=1))
    (line,) = str(caught.value).splitlines()
    assert len(line) < 600
    return line


def at(record, path, value):
    """Set what is at a path of keys and numbers."""
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value


# ---------------------------------------------------------------------- bundle.json


GRAPH, COUNT = ("graphs", 0), "graphs[0].inputs.motion_hyper: channels is"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("graphs",), 3, "graphs is 3, not a list"),
        (GRAPH, "x", "graphs[0]: 'x' is not a JSON object"),
        ((*GRAPH, "name"), 7, "graphs[0]: name is 7"),
        ((*GRAPH, "name"), "alignment", "two graphs are called 'alignment'"),
        ((*GRAPH, "file"), "../bundle.json", "graphs[0]: file is '../bundle.json'"),
        ((*GRAPH, "file"), "/etc/hostname", "graphs[0]: file is '/etc/hostname'"),
        ((*GRAPH, "file"), "..", "graphs[0]: file is '..'"),
        ((*GRAPH, "inputs"), ["motion_hyper"], "graphs[0]: inputs is ['motion_hyper']"),
        ((*GRAPH, "inputs"), {}, "graphs[0]: inputs is {}"),
        ((*GRAPH, "inputs", "motion_hyper"), 4, "graphs[0].inputs.motion_hyper: 4 is not"),
        ((*GRAPH, "inputs", "motion_hyper", "channels"), "4", f"{COUNT} '4'"),
        ((*GRAPH, "inputs", "motion_hyper", "channels"), True, f"{COUNT} True"),
        ((*GRAPH, "inputs", "motion_hyper", "channels"), 0, f"{COUNT} 0"),
        ((*GRAPH, "inputs", "motion_hyper", "stride"), 3, "motion_hyper: stride is 3"),
        ((*GRAPH, "outputs"), "motion_mean", "graphs[0]: outputs is 'motion_mean'"),
        ((*GRAPH, "outputs"), [3], "graphs[0]: outputs is [3]"),
        (("size",), "big", "size is 'big'"),
        (("rates",), None, "rates is None"),
        (("coding",), 7, "coding: 7 is not a JSON object"),
        (("coding", "weights"), 7, "coding: weights is 7"),
        (("coding", "steps"), {}, "coding: steps is {}"),
        (("coding", "steps", 2), "plain", "coding.steps[2]: 'plain' is not a JSON object"),
        (("coding", "steps", 2, "kind"), "dance", "coding.steps[2]: kind is 'dance'"),
        (("coding", "steps", 2, "kind"), [], "coding.steps[2]: kind is []"),
        (("coding", "steps", 2, "name"), 7, "coding.steps[2]: name is 7"),
        (("coding", "steps", 2, "graph"), None, "coding.steps[2]: graph is None"),
        (("coding", "steps", 2, "distribution"), "cauchy", "distribution is 'cauchy'"),
        (("coding", "steps", 2, "copies"), 10**9, "coding.steps[2]: copies is 1000000000"),
        (("coding", "steps", 2, "copies"), "2", "coding.steps[2]: copies is '2'"),
        (("coding", "steps", 2, "loud"), 1, "coding.steps[2]: unknown key 'loud'"),
        (("coding", "entropy"), "entropy.json", "coding.entropy: 'entropy.json' is not"),
        (("coding", "entropy", "file"), "../x", "coding.entropy: file is '../x'"),
    ],
)
def test_what_is_wrong_in_bundle_json_is_told_with_its_place(video, forge, path, value, told):
    forged = forge(video / "fvc")
    at(forged.bundle, path, value)
    line = refused(forged.write())
    assert line.startswith(f"{forged.folder / 'bundle.json'}: not a readable bundle (")
    assert told in line


@pytest.mark.parametrize(
    ("path", "key", "told"),
    [
        ((), "graphs", "missing key 'graphs'"),
        ((), "coding", "missing key 'coding'"),
        (("graphs", 0), "outputs", "graphs[0]: missing key 'outputs'"),
        (("graphs", 0, "inputs", "motion_hyper"), "channels", "missing key 'channels'"),
        (("coding",), "steps", "coding: missing key 'steps'"),
        (("coding", "steps", 0), "kind", "coding.steps[0]: missing key 'kind'"),
        (("coding", "entropy"), "sha256", "missing key"),
    ],
)
def test_what_is_missing_in_bundle_json_is_told_with_its_place(video, forge, path, key, told):
    forged = forge(video / "fvc")
    forged.write()
    record = forged.bundle
    for part in path:
        record = record[part]
    del record[key]
    (forged.folder / "bundle.json").write_text(json.dumps(forged.bundle))
    assert told in refused(forged.folder)


def test_a_codec_without_real_bits_has_no_bundle_to_decode_with(video, forge):
    forged = forge(video / "fvc")
    forged.bundle["coding"] = None
    assert "no program to decode with" in refused(forged.write())


# ---------------------------------------------------------------------- entropy.json


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("hyper",), [], "hyper is []"),
        (("hyper", "latent"), 3, "hyper.latent: 3 is not a list of tables"),
        (("hyper", "latent"), [], "hyper.latent: 0 tables for the 8 channels of latent_hyper"),
        (("hyper", "latent", 0), 3, "hyper.latent[0]: 3 is not a JSON object"),
        (("hyper", "latent", 0, "first"), "a", "hyper.latent[0]: first is 'a'"),
        (("hyper", "latent", 0, "first"), 2**40, "hyper.latent[0]: first is 1099511627776"),
        (("hyper", "latent", 0, "frequencies"), [], "hyper.latent[0]: frequencies is []"),
        (("hyper", "latent", 0, "frequencies"), [1 << 24], "frequencies is [16777216]"),
        (("hyper", "latent", 0, "frequencies"), [1 << 24, 0], "frequencies is [16777216, 0]"),
        (("hyper", "latent", 0, "frequencies"), [1, 2], "frequencies add up to 3, not 16777216"),
        (("hyper", "latent", 0, "frequencies"), [1.0, 2.0], "frequencies is [1.0, 2.0]"),
        (("hyper", "latent", 0, "frequencies"), [[1], 2], "frequencies is [[1], 2]"),
        (("quantisers",), {}, "entropy.json: quantisers: there is none of latent"),
        (("quantisers", "latent"), 3, "quantisers.latent: 3 is not a JSON object"),
        (("quantisers", "latent", "basic"), [1.0] * 7, "7 factors for the 8 channels of latent"),
        (("quantisers", "latent", "basic"), ["1"] * 8, "quantisers.latent: basic is ['1'"),
        (("quantisers", "latent", "basic"), [float("nan")] * 8, "basic is [nan"),
        (("quantisers", "latent", "basic"), [1e300] * 8, "basic is [1e+300"),
        (("quantisers", "latent", "points"), [], "points is []"),
        (("quantisers", "latent", "points"), [float("inf")], "points is [inf]"),
        (("quantisers", "latent", "points"), [1.0], "1 points for the 4 rates"),
    ],
)
def test_what_is_wrong_in_entropy_json_is_told_with_its_place(learned, forge, path, value, told):
    forged = forge(learned)
    at(forged.entropy, path, value)
    line = refused(forged.write())
    assert str(forged.folder) in line
    assert told in line


def test_an_entropy_json_that_is_none_is_told(learned, forge):
    forged = forge(learned)
    for content in ("", "[", "7", "[" * 100_000):
        forged.write()
        (forged.folder / "entropy.json").write_text(content)
        forged.bundle["coding"]["entropy"]["sha256"] = hashlib.sha256(content.encode()).hexdigest()
        (forged.folder / "bundle.json").write_text(json.dumps(forged.bundle))
        assert refused(forged.folder).startswith(f"{forged.folder / 'entropy.json'}: not a")


def test_too_few_tables_are_told(video, forge):
    forged = forge(video / "fvc")
    forged.entropy["hyper"]["motion"].pop()
    assert "3 tables for the 4 channels of motion_hyper" in refused(forged.write())


# ---------------------------------------------------------------------- the program


def without(number):
    return lambda forged: forged.steps.pop(number)


def instead(number, **changes):
    return lambda forged: forged.steps[number].update(changes)


def channels(graph, name, count):
    return lambda forged: forged.graph(graph)["inputs"][name].update(channels=count)


PROGRAMS = [
    ("fvc", lambda forged: forged.steps.clear(), "the program makes no frame"),
    ("fvc", without(7), "the program makes no frame"),
    ("fvc", without(0), "steps[0] (run motion_parameters): nothing has made motion_hyper"),
    ("fvc", without(1), "steps[1] (plain motion): nothing has made motion_mean"),
    ("fvc", without(3), "steps[6] (run reconstruction): nothing has made aligned"),
    ("fvc", instead(1, name="dance"), "steps[1] (run dance): there is no graph 'dance'"),
    ("fvc", instead(3, after_intra="x"), "steps[3] (run alignment): there is no graph 'x'"),
    ("fvc", instead(0, name="noise"), "steps[0] (hyper noise): entropy.json: hyper: there is none"),
    ("fvc", instead(0, kind="first", name="reference", copies=2), "reference has 6 channels"),
    ("fvc", instead(2, kind="waves", graph="alignment"), "'alignment' is no graph of positions"),
    ("fvc", instead(2, kind="checkerboard", graph="alignment"), "there is none of motion"),
    ("fvc", channels("alignment", "motion_latent", 5), "output motion_mean has 4 channels, not 5"),
    ("fvc", channels("alignment", "reference", 4), "reference has 4 channels"),
    ("fvc", channels("reconstruction", "aligned", 9), "alignment.onnx: output aligned has 8"),
    ("learned", instead(2, graph=""), "steps[2] (checkerboard latent): there is no graph ''"),
    ("learned", instead(2, graph="latent_parameters"), "latent_second_mean"),
    ("learned", without(2), "steps[2] (run reconstruction): nothing has made latent"),
]


@pytest.mark.parametrize(("name", "change", "told"), PROGRAMS)
def test_a_program_that_cannot_be_carried_out_is_refused_before_it_starts(
    request, forge, name, change, told
):
    source = request.getfixturevalue("video") / "fvc" if name == "fvc" else None
    forged = forge(source or request.getfixturevalue("learned"))
    change(forged)
    assert told in refused(forged.write())


def test_a_bundle_that_calls_its_checkerboard_fields_is_read_alike(learned, forge):
    forged = forge(learned)
    forged.steps[2]["kind"] = "fields"
    (payload, picture), (older, seen) = map(intra_frame, (learned, forged.write()))
    assert payload == older
    assert np.array_equal(picture, seen)


def intra_frame(folder):
    """What random latents become: a payload, and the picture that is decoded of it."""
    networks, generator = (
        BundleNetworks(folder, setting=Setting(threads=1), intra=True),
        np.random.default_rng(0),
    )

    def analysis(stream, tensors):
        latent = generator.normal(0, 3, (1, networks.channels("latent"), 8, 8))
        hyper = generator.normal(0, 3, (1, len(networks.hyper_tables("latent")), 2, 2))
        return latent.astype(np.float32), hyper.astype(np.float32)

    writer = coder.SymbolWriter()
    code_frame(networks, writer, {}, SIDES, 1.0, analysis)
    payload = writer.finish()
    return payload, decompress(networks, payload, {}, SIDES, 1.0).following["reference"]


# ---------------------------------------------------------------------- graphs


def altered(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def test_a_graph_that_is_no_graph_is_told(video, forge):
    forged = forge(video / "fvc")
    for content in (b"", b"not a graph", (forged.folder / "alignment.onnx").read_bytes()[:999]):
        (forged.folder / "alignment.onnx").write_bytes(content)
        told = refused(forged.write())
        assert told.startswith(f"{forged.folder / 'alignment.onnx'}: ")


def test_a_graph_that_is_another_one_is_told(video, forge):
    forged = forge(video / "fvc")
    other = (forged.folder / "latent_parameters.onnx").read_bytes()
    (forged.folder / "motion_parameters.onnx").write_bytes(other)
    told = refused(forged.write())
    assert "motion_parameters.onnx: has no input motion_hyper, which bundle.json names" in told


def test_a_graph_without_an_output_that_bundle_json_names_is_told(video, forge):
    forged = forge(video / "fvc")
    path = forged.folder / "motion_parameters.onnx"
    altered(path, lambda model: model.graph.output.pop())
    assert f"{path}: has no output motion_scale" in refused(forged.write())


def test_a_graph_with_an_input_that_bundle_json_does_not_name_is_told(video, forge):
    forged = forge(video / "fvc")
    del forged.graph("reconstruction")["inputs"]["aligned"]
    assert "reconstruction.onnx: has an input aligned" in refused(forged.write())


def graph_of(path, nodes, given, made):
    """A graph of these nodes, with inputs and outputs {name: (type, shape)}."""
    tensors = [
        [helper.make_tensor_value_info(name, *of) for name, of in side.items()]
        for side in (given, made)
    ]
    made_graph = helper.make_graph(nodes, "g", *tensors)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(made_graph, opset_imports=opset, ir_version=10), path)


FLOAT, HYPER = TensorProto.FLOAT, (TensorProto.FLOAT, [1, 4, "h", "w"])


def test_a_graph_of_whole_numbers_is_told(video, forge):
    forged = forge(video / "fvc")
    names = forged.graph("motion_parameters")["outputs"]
    nodes = [helper.make_node("Cast", ["motion_hyper"], [name], to=INTEGER) for name in names]
    made = {name: (INTEGER, [1, 4, "h", "w"]) for name in names}
    graph_of(forged.folder / "motion_parameters.onnx", nodes, {"motion_hyper": HYPER}, made)
    assert "output motion_mean holds tensor(int64), not tensor(float)" in refused(forged.write())


@pytest.mark.parametrize("shape", [[1, 4, "h", "w"], ["a", "b", "c", "d"]])
def test_a_graph_whose_results_have_another_size_is_told_when_it_runs(video, forge, shape):
    forged = forge(video / "fvc")
    names = forged.graph("motion_parameters")["outputs"]
    nodes = [helper.make_node("Identity", ["motion_hyper"], [name]) for name in names]
    made = {name: (FLOAT, shape) for name in names}
    graph_of(forged.folder / "motion_parameters.onnx", nodes, {"motion_hyper": HYPER}, made)
    networks = BundleNetworks(forged.write(), setting=Setting(threads=1))
    with pytest.raises(UserError, match=r"motion_parameters\.onnx: motion_mean is 1x4x2x2, not"):
        decompress(networks, *first_p_frame(video))


def test_a_graph_that_onnxruntime_cannot_run_is_told(video, forge, capfd):
    forged = forge(video / "fvc")
    names = forged.graph("motion_parameters")["outputs"]
    data = np.array([1, 7], np.int64)
    shape = helper.make_node("Constant", [], ["s"], value=onnx.numpy_helper.from_array(data))
    nodes = [shape, *(helper.make_node("Reshape", ["motion_hyper", "s"], [n]) for n in names)]
    made = {name: (FLOAT, None) for name in names}
    graph_of(forged.folder / "motion_parameters.onnx", nodes, {"motion_hyper": HYPER}, made)
    networks = BundleNetworks(forged.write(), setting=Setting(threads=1))
    with pytest.raises(UserError, match=r"motion_parameters\.onnx: onnxruntime cannot run it"):
        decompress(networks, *first_p_frame(video))
    assert capfd.readouterr() == ("", "")


def first_p_frame(video):
    """A payload, what is before it, and its size."""
    with Reader(video / "fvc.lvc") as reader:
        intra, packet = (packet for packet, _ in zip(reader.packets(), range(2), strict=False))
    shown = create_pictures("lossless").decompress(intra.payload, HEIGHT, WIDTH)
    reference = padded(shown[None].astype(np.float32) / np.float32(255))
    return packet.payload, {"reference": reference}, SIDES


# ---------------------------------------------------------------------- whatever it is


MOST = 8  # of a long list
STRANGE = (None, True, -1, 0, 10**30, 1.5, "", "x", "latent", [], [7], {}, {"x": 1})


def places(record, path=()):
    """Every place in a JSON value."""
    entries = record.items() if isinstance(record, dict) else ()
    if isinstance(record, list):
        entries = list(enumerate(record))[:MOST]
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@pytest.mark.parametrize("part", ["bundle", "entropy"])
def test_any_value_that_is_another_one_is_a_user_error_or_does_no_harm(video, forge, part):
    forged = forge(video / "fvc")
    payload = first_p_frame(video)
    whole = getattr(forged, part)
    outcomes = {"refused": 0, "decoded": 0}
    for number, path in enumerate(each for each in places(whole) for _ in range(3)):
        changed = copy.deepcopy(whole)
        at(changed, path, STRANGE[number % len(STRANGE)])
        setattr(forged, part, changed)
        try:
            decompress(BundleNetworks(forged.write(), setting=Setting(threads=1)), *payload)
            outcomes["decoded"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > outcomes["decoded"]


# ---------------------------------------------------------------------- on the command line


def told(capfd, *arguments):
    """The one line in which the player says what is wrong."""
    assert main(list(map(str, arguments))) == 2
    output, errors = capfd.readouterr()
    (line,) = errors.splitlines()
    assert line.startswith("error: ") and not output
    return line


def test_a_bundle_that_cannot_be_used_is_told_in_one_line(video, forge, tmp_path, capfd):
    forged = forge(video / "fvc")
    (forged.folder / "alignment.onnx").write_bytes(b"not a graph")
    target = tmp_path / "x.mkv"
    line = told(capfd, "decode", video / "fvc.lvc", target, "--bundle", forged.write())
    assert "alignment.onnx: onnxruntime cannot load it" in line
    assert not target.exists()


@pytest.mark.parametrize("place", ["nowhere", "clip.mkv", "fvc.lvc"])
def test_a_bundle_folder_that_is_none_is_told(video, tmp_path, capfd, place):
    given = ("decode", video / "fvc.lvc", tmp_path / "x.mkv", "--bundle", video / place)
    assert f"{place}: " in (line := told(capfd, *given)) or f"{place}/bundle.json: " in line
    assert "give the folder of a bundle" in line


@pytest.mark.parametrize(
    ("target", "reason"),
    [("x.avi", "suffix that cannot be written"), ("clip.mkv/x.mkv", "cannot be written")],
)
def test_a_target_that_cannot_be_written_is_told(video, tmp_path, capfd, target, reason):
    (tmp_path / "clip.mkv").write_bytes(b"a file")
    given = ("decode", video / "fvc.lvc", tmp_path / target, "--bundle", video / "fvc")
    assert reason in told(capfd, *given)


def test_the_folder_of_the_target_is_made(video, tmp_path):
    target = tmp_path / "new" / "folder" / "x.mkv"
    given = ("decode", video / "fvc.lvc", target, "--bundle", video / "fvc")
    assert main(list(map(str, given))) == 0
    assert len(pictures(target)) == 5


@pytest.mark.parametrize("source", ["nowhere.lvc", "fvc", "clip.mkv"])
@pytest.mark.parametrize("command", ["info", "decode"])
def test_a_source_that_is_none_is_told(video, tmp_path, capfd, source, command):
    given = (tmp_path / "x.mkv", "--bundle", video / "fvc") if command == "decode" else ()
    assert f"{source}: " in told(capfd, command, video / source, *given)


def test_a_number_of_threads_below_zero_is_told(video, tmp_path, capfd):
    given = ("decode", video / "fvc.lvc", tmp_path / "x.mkv", "--bundle", video / "fvc")
    assert "--threads -1" in told(capfd, *given, "--threads", "-1")


def test_a_bundle_of_one_frame_size_is_not_used_for_another(video, forge, tmp_path, capfd):
    forged = forge(video / "fvc")
    forged.bundle["size"] = [256, 448]
    given = ("decode", video / "fvc.lvc", tmp_path / "x.mkv", "--bundle", forged.write())
    assert "for frames of 448x256 alone" in told(capfd, *given)


def test_a_bundle_that_reads_the_frame_before_decodes_no_i_frames(video, forge, tmp_path, capfd):
    forged = forge(video / "fvc")
    weights = read_bundle(forged.folder)["coding"]["weights"]
    forged.folder.rename(video_of_two := tmp_path / "two")
    (video_of_two / "intra").mkdir()
    for path in (video / "fvc").iterdir():
        (video_of_two / "intra" / path.name).write_bytes(path.read_bytes())
    intra = {"codec": "fvc", "weights": weights}
    header = Header("fvc", "tiny", weights, WIDTH, HEIGHT, (25, 1), 3, intra, 2.0**-13)
    with Writer(tmp_path / "x.lvc", header) as writer:
        writer.write("I", b"\0" * 5)
    given = ("decode", tmp_path / "x.lvc", tmp_path / "x.mkv", "--bundle", video_of_two)
    assert "nothing has made reference" in told(capfd, *given)


def test_without_any_terminal_it_decodes_all_the_same(video, tmp_path, monkeypatch):
    """As under a window system, where a process has no standard output and errors at all."""
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    target = tmp_path / "x.mkv"
    given = ("decode", video / "fvc.lvc", target, "--bundle", video / "fvc")
    assert main(list(map(str, given))) == 0
    assert len(pictures(target)) == 5


def test_steps_of_codecs_are_what_a_bundle_can_hold(video):
    steps = read_bundle(video / "fvc")["coding"]["steps"]
    assert all(asdict(Step(**step)) == {**step, "graphs": ()} for step in steps)
