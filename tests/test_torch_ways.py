"""torch's ways of running a decoder: the same results, and one line where a machine lacks one."""

from typing import get_args

import numpy as np
import pytest
import torch

import vcodecs
from prune.measure.latency import Decoder, compare_latency, interleaved
from prune.measure.torch_ways import Spelling, TorchWay, way_of
from prune.onnx_export.bundle import example_inputs
from vcodecs import UserError


@pytest.fixture
def codec():
    return vcodecs.create("dcvc", "tiny").eval()


def test_a_way_is_read_as_it_is_written():
    assert way_of("eager") == TorchWay("eager", "fp32", "cpu")
    assert way_of("channels-last bf16") == TorchWay("channels-last", "bf16", "cpu")
    assert way_of("cuda graphs fp16") == TorchWay("graphs", "fp16", "cuda")
    assert len({way_of(spelling) for spelling in get_args(Spelling)}) == len(get_args(Spelling))


@pytest.mark.parametrize("spelling", ["eager", "channels-last"])
def test_a_way_computes_what_the_graph_computes_and_leaves_the_codec_alone(codec, spelling):
    way = way_of(spelling)
    layouts = [p.is_contiguous() for p in codec.parameters()]
    prepared = way.prepared(codec)
    for ours, theirs in zip(
        prepared.steady_graphs(64, 64), codec.steady_graphs(64, 64), strict=True
    ):
        inputs = example_inputs(theirs)
        with torch.no_grad():
            expected = theirs(*map(torch.from_numpy, inputs.values()))
        made = way.open(ours, inputs)()
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert [p.is_contiguous() for p in codec.parameters()] == layouts


def test_bfloat16_is_rougher_than_float32(codec):
    graph = codec.steady_graphs(64, 64)[-1]
    inputs = example_inputs(graph)
    fine, rough = (way_of(f"eager{p}").open(graph, inputs)() for p in ("", " bf16"))
    assert float((fine - rough.float()).abs().max()) > 0


def test_a_row_names_the_way(codec, tmp_path):
    row = compare_latency(
        (codec, tmp_path), (codec, tmp_path), 64, 64, 2, 1, how=way_of("eager bf16")
    )
    assert row["runtime"].endswith(", eager") and row["precision"] == "bf16"
    assert row["provider"] == "CPUExecutionProvider" and row["runs"] == 2
    assert row["speedup"]["p10"] <= row["speedup"]["median"] <= row["speedup"]["p90"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_ways_are_refused(codec, tmp_path):
    with pytest.raises(UserError, match="there is no GPU here"):
        Decoder(way_of("cuda graphs fp16"), 1, codec, tmp_path, 64, 64)


def test_each_decoder_goes_first_as_often_as_the_others():
    order = []

    class Noted:
        def __init__(self, name):
            self.name = name

        def run(self):
            order.append(self.name)
            return np.zeros(1)

    interleaved([Noted("a"), Noted("b"), Noted("c")], 3)
    assert "".join(order[3:]) == "abcbcacab"
