"""Graphs of 8 bits: calibrated on coded clips, decoded as they were coded, or refused."""

import json

import numpy as np
import onnx
import pytest
import torch
from reference_fill import picture
from test_real_bits import make

from lvc.bundle import BundleNetworks, read_bundle
from lvc.pictures import as_picture
from lvc.program import decompress
from lvc.runtimes import Setting
from prune.data.source import ClipInfo, Source
from prune.onnx_export.bundle import Size, export_bundle
from prune.onnx_export.calibration import recorded_inputs
from prune.onnx_export.int8 import quantisers, sensitivities, write_int8
from prune.pipeline import int8
from vcodecs import UserError
from vcodecs.coding import TorchNetworks, compress
from vcodecs.intra import create_intra

SIZE = (128, 192)


def clip(frames=4, phase=0.0):
    pictures = [as_picture(picture(*SIZE, phase=phase + 0.1 * i).numpy()) for i in range(frames)]
    return np.stack(pictures)


class Clips(Source):
    name, skipped = "memory", {}

    def __len__(self):
        return 4

    def info(self, index):
        return ClipInfo(f"clip {index}", 4, *SIZE, 25)

    def read(self, index, start=0, count=None):
        return clip(phase=0.7 * index)[start : start + (count or 4)]


@pytest.fixture(scope="module", params=["dcvc", "fvc"])
def made(request, tmp_path_factory):
    """A codec, its bundle, what its graphs are given, and their quantisers."""
    codec, folder = make(request.param), tmp_path_factory.mktemp("int8")
    export_bundle(codec, folder, Size(128, 128), "GridSample")
    inputs = recorded_inputs(codec, BundleNetworks(folder), [clip(3)], codec.rates())
    torch.set_flush_denormal(False)
    return codec, folder, inputs, quantisers(folder, inputs)


def test_only_graphs_that_make_no_entropy_parameters_have_8_bits(made, tmp_path):
    _, folder, _, ready = made
    write_int8(folder, tmp_path, ready)
    entries = {entry["name"]: entry for entry in read_bundle(tmp_path)["graphs"]}
    eight = {name for name, entry in entries.items() if entry.get("precision") == "int8"}
    assert eight == set(ready) and eight
    assert not any("prior" in name or "parameters" in name or "wave" in name for name in eight)
    for name in eight:
        nodes = [n.op_type for n in onnx.load(tmp_path / f"{name}.onnx").graph.node]
        assert "QuantizeLinear" in nodes and "DequantizeLinear" in nodes
        assert (tmp_path / f"{name}.onnx").stat().st_size > 0


def test_every_layer_has_its_error_and_what_is_kept_stays_float(made, tmp_path):
    _, folder, inputs, ready = made
    found = sensitivities(ready, inputs)
    assert set(found) == {(name, layer) for name in ready for layer in ready[name].layers()}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(0 <= error < 1 for error in found.values()) and max(found.values()) > 0
    write_int8(folder, tmp_path, ready, keep=found)
    assert all("precision" not in entry for entry in read_bundle(tmp_path)["graphs"])


def test_a_file_made_in_8_bits_is_decoded_by_the_same_graphs(made, tmp_path):
    codec, folder, _, ready = made
    write_int8(folder, tmp_path, ready)
    sender, receiver = (
        BundleNetworks(tmp_path, setting=Setting("onnxruntime", "int8", threads), bound=True)
        for threads in (1, 2)
    )
    frames = [torch.from_numpy(f)[None] / 255 for f in clip()]
    here = there = {"reference": frames[0].numpy()}
    for frame in frames[1:]:
        coded = compress(TorchNetworks(codec), frame, here, codec.rates()[0], sender)
        decoded = decompress(receiver, coded.payload, there, SIZE, codec.rates()[0])
        for name, symbols in coded.symbols.items():
            assert np.array_equal(symbols, decoded.symbols[name])
        here, there = coded.following, decoded.following
        assert np.array_equal(here["reference"], there["reference"])
    torch.set_flush_denormal(False)


def test_graphs_of_8_bits_that_bits_depend_on_do_not_read_plain_files(made, tmp_path):
    codec, folder, _, ready = made
    write_int8(folder, tmp_path, ready)
    if codec.name == "fvc":  # its pictures decide nothing
        assert BundleNetworks(tmp_path).arithmetic is None
        return
    with pytest.raises(UserError, match="has 8-bit weights and decides how bits are read"):
        BundleNetworks(tmp_path)
    bound = BundleNetworks(tmp_path, setting=Setting("onnxruntime", "int8"), bound=True)
    assert bound.arithmetic.precision == "int8" and len(bound.arithmetic.graphs) == 64
    torch.set_flush_denormal(False)


def test_layers_stay_float_until_the_loss_is_small(made, monkeypatch):
    codec, folder, _, _ = made
    monkeypatch.setattr(int8, "LOSS", 0.5)
    chosen = int8.add_int8(codec, folder, [Clips()], create_intra("lossless"))
    assert chosen.layers > 0 and chosen.loss_db <= 0.5
    said = json.loads((folder / "int8" / "int8.json").read_text())
    assert said["layers"] == chosen.layers and len(said["kept"]) == len(chosen.kept)
    monkeypatch.setattr(int8, "LOSS", -100.0)
    with pytest.raises(UserError, match="every layer costs more than"):
        int8.add_int8(codec, folder, [Clips()], create_intra("lossless"))
