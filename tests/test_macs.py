"""Counted multiply-accumulates, against formulas and against the figures of the real codec."""

import json

import onnx
import plugins
import pytest
import torch
import toys
from onnx import TensorProto, helper
from reference_fill import REFERENCE, needs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vcodecs
from prune.groups.find import find_groups
from prune.groups.shrink import shrunk_copy
from prune.measure.macs import decoder_macs, encoder_macs, parameters
from prune.measure.onnx_macs import bundle_macs, graph_macs
from prune.onnx_export.bundle import Size, export_bundle
from prune.sparsify.cost import CostModel

with_reference = needs("macs.json")


@pytest.fixture(scope="module")
def official():
    return vcodecs.create("dcvc", "official")


# ---------------------------------------------------------------------- the official DCVC


def test_official_dcvc_decodes_1080p_with_1533_gmac(official):
    assert decoder_macs(official, 1088, 1920).total == pytest.approx(1533.117e9, rel=0.005)


def test_parameters_that_the_codec_holds_itself_count_as_well():
    codec = vcodecs.create("dcvc_hem", "tiny")
    own = sum(p.numel() for p in codec.parameters(recurse=False))
    children = [name for name, _ in codec.named_children()]
    assert parameters(codec) == parameters(codec, children) + own and own > 0


def test_official_dcvc_decodes_with_5_324_440_parameters(official):
    assert parameters(official, official.decoder_modules()) == 5_324_440
    assert parameters(official) == 7_944_448


def test_only_the_sender_of_official_dcvc_needs_830_gmac_more(official):
    assert encoder_macs(official, 1088, 1920).total == pytest.approx(829.753e9, rel=0.005)


@with_reference
@pytest.mark.parametrize("role", ["decoder", "encoder"])
def test_every_module_of_official_dcvc_needs_the_macs_of_the_reference(official, role):
    modules = json.loads((REFERENCE / "macs.json").read_text())["codecs"]["dcvc"]["modules"]
    count = decoder_macs if role == "decoder" else encoder_macs
    found = count(official, 1088, 1920).by_module
    expected = {
        name: entry["macs_1920x1088"]
        for name, entry in modules.items()
        if entry["role"].startswith(role) and entry["params"]
    }
    assert found == pytest.approx(expected)
    assert {n: parameters(official, (n,)) for n in expected} == {
        name: modules[name]["params"] for name in expected
    }


# ---------------------------------------------------------------------- formulas


def by_layer(kind, side=64):
    return decoder_macs(kind(), side, side).by_layer


def test_a_convolution_costs_weights_times_output_positions():
    assert by_layer(toys.Joined)["picture.0"] == 11 * 6 * 9 * 64 * 64


def test_a_transposed_convolution_costs_weights_times_input_positions():
    assert by_layer(toys.Joined)["up.2"] == 5 * 6 * 9 * 32 * 32


def test_a_sub_pixel_convolution_is_one_layer():
    layers = by_layer(toys.SubpelChain)
    assert layers["up.0"] == 6 * (6 * 4) * 9 * 16 * 16
    assert set(layers) == {"up.0", "up.1", "up.2"}


def test_a_normalisation_costs_what_the_1x1_convolution_in_it_does():
    assert by_layer(toys.Normalised)["up.1"] == 6 * 6 * 32 * 32


def test_a_masked_convolution_counts_densely():
    # It runs twice: once for the scales, once for the picture.
    assert by_layer(toys.AutoRegressive)["spatial"] == 2 * 6 * 7 * 25 * 16 * 16


def test_a_depthwise_convolution_counts_one_input_an_output():
    assert by_layer(toys.Scaled)["depthwise"] == 8 * 9 * 16 * 16


def test_linear_layers_count_and_warping_does_not():
    assert by_layer(toys.Squeezed)["gate.0"] == 8 * 4
    layers = by_layer(toys.Warped)
    assert sum(layers.values()) == decoder_macs(toys.Warped(), 64, 64).total
    assert layers["features"] == 3 * 6 * 9 * 64 * 64


def test_modules_are_the_sum_of_their_layers():
    macs = decoder_macs(toys.Warped(), 64, 64)
    for module, total in macs.by_module.items():
        assert total == sum(n for name, n in macs.by_layer.items() if name.split(".")[0] == module)


def test_frames_are_counted_at_their_padded_size():
    codec = toys.Joined()
    assert decoder_macs(codec, 65, 100).total == decoder_macs(codec, 128, 128).total
    assert decoder_macs(codec, 128, 128).total == 4 * decoder_macs(codec, 64, 64).total


def test_the_encoder_of_a_codec_of_many_rates_is_counted_without_values():
    codec = vcodecs.create("dcvc_hem", "tiny")
    assert encoder_macs(codec, 128, 64).total == 2 * encoder_macs(codec, 64, 64).total > 0


def test_the_sender_alone_runs_the_encoder():
    macs = encoder_macs(toys.Joined(), 64, 64)
    assert macs.by_module == {"encoder": 3 * 6 * 16 * 16 * 16}


def test_counting_leaves_the_codec_as_it_is():
    codec = toys.Normalised().train()
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    decoder_macs(codec, 64, 64)
    assert codec.training
    assert all(torch.equal(before[key], value) for key, value in codec.state_dict().items())


# ---------------------------------------------------------------------- ONNX graphs


def save(path, op, inputs, weights, outputs, **attributes):
    """A graph of one node whose input has free sides."""
    shapes = [None if n > 2 else n for n in inputs]
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * outputs)],
        [helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.flatten().tolist())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)


def torch_macs(layer, shape):
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        layer(torch.zeros(shape))
    return counter.get_total_flops() // 2


CASES = {
    "strided convolution": (nn.Conv2d(2, 6, 5, 2, 2, bias=False), "Conv", [1, 2, 24, 32]),
    "depthwise convolution": (nn.Conv2d(2, 2, 3, 1, 1, groups=2, bias=False), "Conv", [1, 2, 8, 9]),
    "transposed convolution": (
        nn.ConvTranspose2d(2, 5, 3, 2, 1, 1, bias=False),
        "ConvTranspose",
        [2, 2, 8, 12],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_onnx_layers_count_as_torch_counts_them(tmp_path, name):
    layer, op, shape = CASES[name]
    attributes = {"strides": list(layer.stride), "group": layer.groups}
    attributes["pads"] = [*layer.padding, *layer.padding]
    if op == "ConvTranspose":
        attributes["output_padding"] = list(layer.output_padding)
    save(tmp_path / "one.onnx", op, shape, layer.weight.detach(), 4, **attributes)
    assert graph_macs(tmp_path / "one.onnx", {"x": shape}) == torch_macs(layer, shape)


def test_onnx_matrix_products_count_every_multiplication(tmp_path):
    save(tmp_path / "one.onnx", "MatMul", [7, 5], torch.zeros(5, 3), 2)
    assert graph_macs(tmp_path / "one.onnx", {"x": [7, 5]}) == 7 * 5 * 3
    save(tmp_path / "two.onnx", "Gemm", [7, 5], torch.zeros(3, 5), 2, transB=1)
    assert graph_macs(tmp_path / "two.onnx", {"x": [7, 5]}) == 7 * 5 * 3


def test_other_onnx_nodes_cost_nothing(tmp_path):
    save(tmp_path / "one.onnx", "Add", [7, 5], torch.zeros(7, 5), 2)
    assert graph_macs(tmp_path / "one.onnx", {"x": [7, 5]}) == 0


def test_a_bundle_costs_the_sum_of_its_graphs(tmp_path):
    layer, op, shape = CASES["strided convolution"]
    attributes = {"strides": [2, 2], "pads": [2, 2, 2, 2]}
    for name in ("a", "b"):
        save(tmp_path / f"{name}.onnx", op, shape, layer.weight.detach(), 4, **attributes)
    single = graph_macs(tmp_path / "a.onnx", {"x": shape})
    assert bundle_macs(tmp_path, ["a", "b"], {"x": shape}) == 2 * single


@pytest.mark.parametrize(
    "name", ["attention of pixels", "heads by width", "heads by number, windowed"]
)
def test_the_products_of_an_attention_count_and_fall_with_its_channels(name, tmp_path):
    codec = plugins.plugin(plugins.BLOCKS[name])().eval()
    dense = decoder_macs(codec, 128, 128)
    layers = sum(macs for layer, macs in dense.by_layer.items() if layer != "block")
    width, positions, seen = 16, 64, 64 if "windowed" not in name else 16
    assert dense.by_layer["block"] == 2 * width * positions * seen
    assert dense.total == layers + dense.by_layer["block"]

    channels = find_groups(codec)
    kept = {g.name: list(range(1, g.size)) for g in channels.groups}
    model = CostModel(codec, channels, 128, 128)
    small = shrunk_copy(codec, kept, channels)
    counts = model.sizes.new_tensor([len(kept[g.name]) for g in channels.groups])
    assert float(model.total(counts)) == pytest.approx(decoder_macs(small, 128, 128).total)

    export_bundle(small, tmp_path, Size(128, 128, dynamic=False))
    graphs = small.decoder_graphs(128, 128)
    sizes = {k: list(v) for graph in graphs for k, v in graph.input_shapes().items()}
    counted = bundle_macs(tmp_path, [graph.name for graph in graphs], sizes)
    assert counted == decoder_macs(small, 128, 128).total
