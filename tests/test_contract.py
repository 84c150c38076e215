"""The contract: what holds for every codec, how codecs are found, what forward promises."""

import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fill import fill_codec

import vcodecs
from lvc.pictures import round_up
from prune.training.loss import rate_distortion
from vcodecs import CodedFrame, Reference, UserError, VideoCodec
from vcodecs.contract import DecoderGraph, GraphTensor, pad
from vcodecs.registry import codec_class

every_codec = pytest.mark.parametrize("name", vcodecs.names())


def smallest(name):
    """The codec at its cheapest preset, which its class lists last, with lively weights."""
    preset = tuple(codec_class(name).presets)[-1]
    return fill_codec(vcodecs.create(name, preset)).eval()


@pytest.fixture(scope="module")
def codec():
    return smallest("dcvc")


def code(codec, frame, reference, **options):
    with torch.no_grad():
        return codec(frame, reference, codec.rates()[0], **options)


# ---------------------------------------------------------------------- frame sizes


@settings(max_examples=40, deadline=None, derandomize=True)
@given(height=st.integers(16, 140), width=st.integers(16, 140))
def test_a_frame_of_any_size_comes_back_in_its_size(height, width, codec):
    frame, previous = torch.rand(2, 1, 3, height, width)
    coded = code(codec, frame, Reference(previous))
    assert coded.frame.shape == (1, 3, height, width)
    assert coded.frame.isfinite().all()
    for bits in coded.bits.values():
        assert bits.shape == (1,) and bits.isfinite().all() and (bits > 0).all()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(height=st.integers(16, 100), width=st.integers(16, 100))
def test_a_clip_of_any_size_goes_on_from_its_own_reference(height, width, codec):
    clip = torch.rand(3, 1, 3, height, width)
    reference = Reference(clip[0])
    for frame in clip[1:]:
        coded = code(codec, frame, reference)
        reference = coded.reference
        assert coded.frame.shape == frame.shape
        assert torch.equal(reference.frame[..., :height, :width], coded.frame)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(height=st.integers(16, 100), width=st.integers(16, 100))
def test_padding_repeats_the_edge_and_is_cut_off_again(height, width, codec):
    frame, previous = torch.rand(2, 1, 3, height, width)
    coded = code(codec, frame, Reference(previous))
    rows = torch.arange(round_up(height)).clamp(max=height - 1)
    columns = torch.arange(round_up(width)).clamp(max=width - 1)
    by_hand = code(
        codec, frame[..., rows, :][..., columns], Reference(previous[..., rows, :][..., columns])
    )
    assert torch.equal(coded.frame, by_hand.frame[..., :height, :width])
    assert torch.equal(coded.total_bits(), by_hand.total_bits())


@pytest.mark.parametrize(("height", "width"), [(15, 64), (64, 15), (1, 1)])
def test_frames_with_a_side_below_16_are_refused(height, width, codec):
    frame = torch.rand(1, 3, height, width)
    with pytest.raises(UserError, match=f"{width}x{height}.*16x16"):
        codec(frame, Reference(frame))


@settings(deadline=None, derandomize=True)
@given(side=st.integers(1, 5000))
def test_rounding_up_gives_the_next_multiple_of_64(side):
    assert round_up(side) % 64 == 0
    assert 0 <= round_up(side) - side < 64


def test_padding_what_fits_already_changes_nothing():
    frame = torch.rand(1, 3, 64, 128)
    assert pad(frame) is frame


# ---------------------------------------------------------------------- eval, training, batches


def test_eval_shows_pictures_within_the_range_and_training_what_the_network_made(codec):
    bright = fill_codec(vcodecs.create("dcvc_hem", "tiny"))
    with torch.no_grad():
        bright.recon_generation_net.recon_conv.weight.mul_(50)
    frame, previous = torch.rand(2, 1, 3, 64, 64)
    shown = code(bright.eval(), frame, Reference(previous))
    made = code(bright.train(), frame, Reference(previous))
    assert made.frame.min() < 0 and made.frame.max() > 1
    assert torch.equal(shown.frame, made.frame.clamp(0, 1))
    assert torch.equal(shown.reference.frame, shown.frame)
    assert torch.equal(made.reference.frame, made.frame)


def test_a_prediction_is_shown_within_the_range_too(codec):
    previous = torch.rand(1, 3, 64, 64) * 3 - 1
    coded = code(codec, torch.rand(1, 3, 64, 64), Reference(previous), upto="motion")
    assert coded.frame.min() == 0 and coded.frame.max() == 1


@every_codec
def test_a_batch_of_two_gives_what_two_single_frames_give(name):
    codec = smallest(name)
    frames, previous = torch.rand(2, 2, 3, 64, 80)
    together = code(codec, frames, Reference(previous))
    for n in range(2):
        alone = code(codec, frames[n : n + 1], Reference(previous[n : n + 1]))
        # Warps of noise magnify how layers round, which differs with the number of pictures.
        assert torch.allclose(together.frame[n], alone.frame[0], rtol=0, atol=5e-5)
        for stream, bits in alone.bits.items():
            assert torch.allclose(together.bits[stream][n], bits[0], rtol=1e-4)


@every_codec
def test_coding_leaves_its_inputs_and_its_weights_alone(name):
    codec = smallest(name)
    frame, previous = torch.rand(2, 1, 3, 70, 64)
    copies = frame.clone(), previous.clone()
    state = {key: value.clone() for key, value in codec.state_dict().items()}
    code(codec, frame, Reference(previous))
    code(codec.train(), frame, Reference(previous))
    assert torch.equal(frame, copies[0]) and torch.equal(previous, copies[1])
    assert all(torch.equal(value, state[key]) for key, value in codec.state_dict().items())


# ---------------------------------------------------------------------- every codec


@every_codec
def test_every_codec_is_made_of_the_modules_that_it_names(name):
    codec = smallest(name)
    parts = set(codec.parts())
    assert codec.name == name
    assert set(codec.decoder_modules()) < parts
    assert len(set(codec.decoder_modules())) == len(codec.decoder_modules())
    own = {parameter for parameter, _ in codec.named_parameters(recurse=False)}
    stages = codec.stages()
    assert len({stage.name for stage in stages}) == len(stages) > 0
    for stage in stages:
        assert set(stage.modules) <= parts | own and stage.frames >= 1
    frame = torch.rand(1, 3, 64, 64)
    kept = code(codec, frame, Reference(frame)).reference.tensors()
    for field, module in codec.tied_channels():
        assert field in kept
        codec.get_submodule(module)


@every_codec
def test_every_stage_can_be_run_and_has_a_loss_to_train_with(name):
    codec = smallest(name).train()
    for stage in codec.stages():
        codec.zero_grad()
        frames = torch.rand(1, stage.frames + 1, 3, 64, 64)
        rate_distortion(codec, frames, stage, 100, rate=codec.rates()[0]).loss.backward()
        for name in stage.modules:
            part = dict(codec.named_parameters(recurse=False)).get(name)
            trained = codec.get_submodule(name).parameters() if part is None else [part]
            assert any(p.grad is not None for p in trained)


@every_codec
def test_the_graphs_of_every_codec_are_wired_by_unique_names(name):
    codec = smallest(name)
    everything = codec.decoder_graphs(64, 64)
    assert len({graph.name for graph in everything}) == len(everything)
    # A graph for the first P frame alone yields what another one yields for all others, and may
    # yield what stands for something of the frame before.
    graphs = codec.steady_graphs(64, 64)
    for first in (graph for graph in everything if graph.after_intra or graph.in_turn):
        own = tuple(name for name in first.outputs if not name.startswith("previous_"))
        assert own in [graph.outputs for graph in graphs]
    outputs = [output for graph in graphs for output in graph.outputs]
    assert len(set(outputs)) == len(outputs)
    assert "frame" in outputs
    seen = set()
    for graph in graphs:
        late = set(graph.inputs) & set(outputs) - seen
        assert not late, f"{graph.name} needs {late}, which come later"
        seen |= set(graph.outputs)


@every_codec
def test_every_preset_of_every_codec_can_be_built(name):
    for preset in codec_class(name).presets:
        with torch.device("meta"):  # shapes alone: some have gigabytes of weights
            assert vcodecs.create(name, preset).preset == preset


# ---------------------------------------------------------------------- plain data


def test_total_bits_adds_up_the_streams_that_are_asked_for():
    bits = {"motion": torch.tensor([1.0, 2.0]), "latent": torch.tensor([10.0, 20.0])}
    frame = torch.zeros(2, 3, 16, 16)
    coded = CodedFrame(frame, Reference(frame), bits)
    assert coded.total_bits().tolist() == [11, 22]
    assert coded.total_bits(("latent",)).tolist() == [10, 20]
    assert coded.total_bits(()).tolist() == [0, 0]


def test_a_detached_reference_has_the_same_values_and_no_history():
    frame = torch.rand(1, 3, 16, 16, requires_grad=True)
    reference = Reference(frame * 2, feature=frame * 3)
    detached = reference.detached()
    assert torch.equal(detached.frame, reference.frame)
    assert torch.equal(detached.feature, reference.feature)
    assert not detached.frame.requires_grad and not detached.feature.requires_grad
    assert detached.latent is None and detached.motion_latent is None


def test_a_reference_holds_what_a_codec_names_itself():
    frame, hidden = torch.rand(1, 3, 16, 16), torch.rand(1, 4, 16, 16)
    reference = Reference(frame, latent=frame * 2, state={"hidden": hidden}, position=3)
    assert list(reference.tensors()) == ["frame", "latent", "hidden"]
    other = reference.with_tensors({"frame": frame + 1, "hidden": hidden * 2})
    assert other.position == 3 and other.latent is None
    assert torch.equal(other.frame, frame + 1) and torch.equal(other.state["hidden"], hidden * 2)


def test_an_input_of_stride_0_has_one_number_a_channel_at_any_size(codec):
    graph = DecoderGraph("g", codec, lambda *_: None, {"x": GraphTensor(3, 0)}, ("y",), (64, 128))
    assert graph.input_shapes() == {"x": (1, 3, 1, 1)}


def test_a_graph_runs_its_function_and_knows_its_input_shapes(codec):
    def double(given, x, y):
        assert given is codec
        return 2 * x + y

    inputs = {"x": GraphTensor(3, 1), "y": GraphTensor(5, 16)}
    graph = DecoderGraph("double", codec, double, inputs, ("z",), (64, 128))
    assert graph.input_shapes() == {"x": (1, 3, 64, 128), "y": (1, 5, 4, 8)}
    assert graph(torch.ones(1), torch.ones(1)).item() == 3


# ---------------------------------------------------------------------- the registry


def message_of(call, *arguments, **options):
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_dcvc_is_registered():
    assert "dcvc" in vcodecs.names()


def test_an_unknown_codec_is_refused_with_the_known_ones_named():
    message = message_of(vcodecs.create, "vvc")
    assert "'vvc'" in message and "dcvc" in message


def test_an_unknown_preset_is_refused_with_the_known_ones_named():
    message = message_of(vcodecs.create, "dcvc", preset="huge")
    assert "'huge'" in message
    assert all(preset in message for preset in ("official", "small", "tiny"))


PACKAGE = '''
import torch
from vcodecs import CodedFrame, Reference, VideoCodec


class Repeater(VideoCodec):
    """Shows the reference again, for nothing."""

    name = "repeater"
    presets = {"official": None}

    def __init__(self, preset):
        super().__init__()
        self.preset = preset
        self.gain = torch.nn.Conv2d(3, 3, 1)

    def code(self, frame, reference, rate, upto):
        zero = frame.new_zeros(frame.shape[0])
        return CodedFrame(reference.frame, reference, {"latent": zero})

    def decoder_modules(self):
        return ("gain",)

    def stages(self):
        return ()

    def remap_official(self, state):
        return {key.replace("theirs", "gain"): value for key, value in state.items()}

    def decoder_graphs(self, height, width):
        return ()
'''


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """Somebody else's package with a codec, on the path as an installed one is."""
    (tmp_path / "repeater_package.py").write_text(PACKAGE)
    info = tmp_path / "repeater-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: repeater\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[leanvc.codecs]\nrepeater = repeater_package:Repeater\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("repeater_package", None)


def test_another_package_adds_a_codec_by_an_entry_point(other_package):
    assert set(vcodecs.names()) >= {"dcvc", "repeater"}
    codec = vcodecs.create("repeater")
    assert isinstance(codec, VideoCodec)
    frame, previous = torch.rand(2, 1, 3, 20, 30)
    coded = codec.eval()(frame, Reference(previous))
    assert torch.equal(coded.frame, previous)
    assert coded.total_bits().item() == 0


def test_a_codec_of_another_package_loads_official_names_and_refuses_wrong_ones(
    other_package, tmp_path
):
    weights = {"theirs.weight": torch.ones(3, 3, 1, 1), "theirs.bias": torch.zeros(3)}
    torch.save(weights, tmp_path / "good.pth")
    codec = vcodecs.create("repeater", checkpoint=tmp_path / "good.pth")
    assert torch.equal(codec.gain.weight, torch.ones(3, 3, 1, 1))
    torch.save({"theirs.weight": weights["theirs.weight"]}, tmp_path / "bad.pth")
    message = message_of(vcodecs.create, "repeater", checkpoint=tmp_path / "bad.pth")
    assert "gain.bias" in message and "repeater" in message


def test_codecs_of_other_packages_are_gone_with_them():
    assert "repeater" not in vcodecs.names()


def test_load_official_names_the_codec_and_where_the_weights_came_from(codec):
    message = message_of(codec.load_official, {}, "weights.pth")
    assert message.startswith("weights.pth does not fit dcvc, preset tiny")
    assert message_of(codec.load_official, {}).startswith("the checkpoint does not fit dcvc")


def test_importing_the_package_and_its_error_does_not_import_torch():
    program = "import sys, vcodecs; vcodecs.UserError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match=re.escape("'vcodecs' has no attribute 'missing'")):
        vcodecs.missing  # noqa: B018
