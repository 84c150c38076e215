"""Tables of measured layer times: what is measured, how it is kept, what it says of a decoder."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from times import MACHINE, staircase, worked_out

import vcodecs
from lvc.runtimes import Setting, check_setting, has_openvino
from prune.groups.find import find_groups
from prune.measure.layer_graphs import graph_inputs, layer_graph
from prune.measure.layer_kinds import LayerKind, decoder_work
from prune.measure.layer_times import LayerTimes, cache_folder, grid
from prune.measure.macs import decoder_macs
from prune.recipe.schema import TimeBudget
from prune.sparsify.budget import allowed_share
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import choose
from prune.sparsify.time_cost import TimeCost
from vcodecs import UserError

CONV = LayerKind("conv", 3, 1, 6, 8)


def linear(kind, inputs, outputs):
    return inputs * outputs * 1e-3


def cost_of(name="dcvc", preset="tiny", timer=staircase):
    codec = vcodecs.create(name, preset)
    channels = find_groups(codec)
    return codec, channels, TimeCost(codec, channels, 64, 64, worked_out(timer=timer))


# ---------------------------------------------------------------------- what there is to time


@pytest.mark.parametrize("name", ["dcvc", "fvc", "dcvc_hem"])
def test_every_layer_that_has_macs_is_timed(name):
    codec = vcodecs.create(name, "tiny")
    work = decoder_work(codec, 64, 128)
    timed = {item.layer for item in work if item.kind.operator not in ("pass", "warp")}
    by_layer = decoder_macs(codec, 64, 128).by_layer
    counted = {
        layer for layer, macs in by_layer.items()
        if macs and not isinstance(codec.get_submodule(layer), torch.nn.Linear)
    }  # fmt: skip
    assert counted <= timed
    between = {"pass"} if name == "fvc" else {"pass", "warp"}  # FVC fetches by its convolutions
    assert between <= {item.kind.operator for item in work}


def test_twice_the_frame_is_the_same_work_on_twice_the_pixels():
    codec = vcodecs.create("dcvc", "tiny")
    small, large = decoder_work(codec, 64, 64), decoder_work(codec, 64, 128)
    assert [(w.layer, w.inputs, w.outputs, w.times) for w in small] == [
        (w.layer, w.inputs, w.outputs, w.times) for w in large
    ]
    assert all(2 * a.kind.width == b.kind.width for a, b in zip(small, large, strict=True))


@pytest.mark.parametrize(
    ("kind", "outputs", "shape"),
    [
        (CONV, 5, (1, 4, 6, 8)),  # a chain comes back to its inputs
        (LayerKind("conv", 3, 2, 6, 8), 5, (1, 5, 3, 4)),
        (LayerKind("conv", 1, 1, 6, 8, 2), 6, (1, 4, 6, 8)),
        (LayerKind("transposed", 3, 2, 6, 8), 5, (1, 5, 12, 16)),
        (LayerKind("subpel", 3, 2, 6, 8), 5, (1, 5, 12, 16)),
        (LayerKind("deform", 3, 1, 6, 8, 2), 5, (1, 5, 6, 8)),
        (LayerKind("norm", 1, 1, 6, 8), 4, (1, 4, 6, 8)),
        (LayerKind("pass", 0, 1, 6, 8), 4, (1, 4, 6, 8)),
        (LayerKind("warp", 0, 1, 6, 8), 4, (1, 4, 6, 8)),
    ],
    ids=lambda value: value.operator if isinstance(value, LayerKind) else "",
)
def test_a_layer_is_a_graph_of_its_own(kind, outputs, shape):
    model, layers = layer_graph(kind, 4, outputs)
    onnx.checker.check_model(model)
    assert layers == (4 if kind.operator in ("conv", "norm", "pass") and kind.stride == 1 else 1)
    (made,) = ReferenceEvaluator(model).run(None, graph_inputs(kind, 4))
    assert made.shape == shape
    assert np.isfinite(made).all()


# ---------------------------------------------------------------------- the table


def test_each_time_is_measured_once_and_in_one_direction():
    asked = []
    times = LayerTimes(MACHINE, lambda *key: asked.append(key) or 1.0)
    for widths in ((8, 16), (16, 8), (8, 16)):
        times.milliseconds(CONV, *widths)
    assert asked == [(CONV, 8, 16)]
    strided = LayerKind("conv", 3, 2, 6, 8)
    for widths in ((8, 16), (16, 8)):
        times.milliseconds(strided, *widths)
    assert times.measured == 3


def test_times_are_kept_for_the_same_machine_alone(tmp_path):
    file = tmp_path / "cache" / "times.json"
    first = LayerTimes(MACHINE, linear, file)
    first.table(CONV, 24, 16)
    first.save()
    again = LayerTimes(MACHINE, linear, file)
    assert again.table(CONV, 24, 16) == first.table(CONV, 24, 16)
    assert (again.measured, first.measured) == (0, 5)
    other = LayerTimes(worked_out().machine.__class__("b", "r", "fp32", 2), linear, file)
    assert not other.known


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"machine": {}, "times": [[1]]}'])
def test_a_cache_that_is_no_table_is_measured_anew(tmp_path, text):
    file = tmp_path / "times.json"
    file.write_text(text)
    times = LayerTimes(MACHINE, linear, file)
    assert times.milliseconds(CONV, 8, 8) == pytest.approx(0.064)
    times.save()
    assert json.loads(file.read_text())["times"] == [["conv", 3, 1, 6, 8, 1, 8, 8, 0.064]]


def test_the_cache_is_where_one_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LEANVC_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "layer_times"
    monkeypatch.delenv("LEANVC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / "leanvc" / "layer_times"


def test_widths_that_are_measured_end_with_the_dense_one():
    assert grid(64) == [8, 16, 24, 32, 48, 64]
    assert grid(3) == [3]
    assert grid(100)[-2:] == [96, 100]


# ---------------------------------------------------------------------- the cost


def test_the_dense_decoder_takes_the_sum_of_its_layers():
    codec, _, cost = cost_of()
    expected = sum(
        item.times * staircase(item.kind, item.inputs, item.outputs)
        for item in decoder_work(codec, 64, 64)
    )
    assert float(cost.total(cost.sizes)) == pytest.approx(expected)
    assert float(cost.fraction(cost.sizes)) == pytest.approx(1)


def test_time_falls_with_the_channels_and_has_a_gradient():
    _, _, cost = cost_of("dcvc", "small", linear)
    shares = torch.linspace(0.2, 1, 9, dtype=torch.float64)[:, None] * cost.sizes
    path = cost.fraction(shares)
    assert (path.diff() > 0).all()
    counts = (cost.sizes * 0.6).requires_grad_()
    cost.fraction(counts).backward()
    assert (counts.grad >= 0).all()
    assert counts.grad.max() > 0


def test_between_two_widths_time_is_interpolated():
    codec, channels, cost = cost_of("dcvc", "small", linear)
    macs = CostModel(codec, channels, 64, 64)
    assert cost.layers != macs.layers
    counts = (cost.sizes * 0.5).round()
    # A table that is a product of both counts is met exactly between its points as well, in every
    # layer whose counts are none below the least that is measured.
    rows = [i for i, item in enumerate(decoder_work(codec, 64, 64))
            if item.kind.operator == "conv" and min(item.inputs, item.outputs) >= 32]  # fmt: skip
    ins, outs = cost._parts(counts)
    widths = (ins * cost.counts[:, 0], outs * cost.counts[:, 1])
    expected = widths[0] * widths[1] * 1e-3 * cost.runs
    assert rows
    assert cost.prices(counts)[rows] == pytest.approx(expected[rows], rel=1e-9)


def test_what_moves_change_is_what_the_counts_after_them_take():
    _, channels, cost = cost_of("dcvc_hem")
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([max(1, g.size // 2) for g in channels.groups]).double()
    moves = torch.randint(-1, 2, (20, len(counts)), generator=generator)
    moves *= torch.rand(moves.shape, generator=generator) < 0.1
    single, pairs = cost.after_moves(counts, moves)
    assert torch.allclose(single, cost.fraction(counts + moves), rtol=1e-9)
    assert torch.allclose(pairs, cost.fraction(counts + moves[:, None] + moves), rtol=1e-9)


@pytest.mark.parametrize("budget", [0.4, 0.6])
def test_the_choice_meets_a_budget_of_time(budget):
    _, channels, cost = cost_of("dcvc", "small")
    generator = torch.Generator().manual_seed(1)
    scores = [torch.randn(g.size, generator=generator) for g in channels.groups]
    kept = choose(channels.groups, scores, cost, budget, 8, 0.1)
    counts = torch.tensor([len(kept[g.name]) for g in channels.groups])
    assert float(cost.fraction(counts)) == pytest.approx(budget, abs=0.01)


def test_milliseconds_are_a_part_of_the_dense_ones():
    _, _, cost = cost_of()
    dense = float(cost.total(cost.sizes))
    assert allowed_share(TimeBudget(latency_ms=dense / 4), cost) == pytest.approx(0.25)
    assert allowed_share(TimeBudget(latency=0.3), cost) == 0.3
    with pytest.raises(UserError, match=r"the dense decoder takes .* ms already"):
        allowed_share(TimeBudget(latency_ms=dense + 1), cost)


# ---------------------------------------------------------------------- runtimes


def test_a_runtime_that_cannot_do_it_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="onnxruntime has no bf16 on CPUs"):
        check_setting("onnxruntime", "bf16")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'openvino>=2025\.0'"):
        check_setting("openvino", "fp32")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_make_the_same_of_a_layer(runtime, tmp_path):
    if runtime == "openvino" and not has_openvino():
        pytest.skip("openvino is not installed: pip install 'leanvc[openvino]'")
    model, _ = layer_graph(CONV, 4, 5)
    path = tmp_path / "layer.onnx"
    path.write_bytes(model.SerializeToString())
    given = graph_inputs(CONV, 4)
    (expected,) = ReferenceEvaluator(model).run(None, given)
    made = Setting(runtime, "fp32", 1).open(path).run(given)
    torch.set_flush_denormal(False)
    assert made[0] == pytest.approx(expected, abs=1e-5)
