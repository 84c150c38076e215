"""Weights that are no numbers are named when they are loaded, and nothing is coded with them."""

import numpy as np
import pytest
import torch
from reference_fill import fill_codec
from torch import nn

import prune
import vcodecs
from lvc.video import open_sink
from vcodecs import UserError, checkpoints
from vcodecs.__main__ import main
from vcodecs.coding import TorchNetworks, compress
from vcodecs.finite import check_finite

LAYER = "contextualDecoder_part1.0.0.weight"


def tiny():
    return fill_codec(vcodecs.create("dcvc", "tiny")).eval()


def broken(value, layer=LAYER):
    codec = tiny()
    codec.get_parameter(layer).data.view(-1)[7] = value
    return codec


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_loading_names_the_tensor(name, value, what, tmp_path):
    path, codec = tmp_path / name, broken(value)
    if path.suffix == ".pth":
        torch.save({"state_dict": codec.state_dict()}, path)
    else:
        checkpoints.save(codec, path)
    with pytest.raises(UserError) as caught:
        vcodecs.create("dcvc", "tiny", path)
    message = str(caught.value)
    assert f"checkpoint {path}: {LAYER} has 1 of 4608 values" in message and what in message
    assert "\n" not in message


def test_the_command_line_refuses_such_weights_before_it_writes_anything(tmp_path, capsys):
    checkpoints.save(broken(np.nan), tmp_path / "nan.safetensors")
    with open_sink(tmp_path / "clip.mkv", 64, 64, 25) as sink:
        sink.write(np.full((3, 64, 64), 90, np.uint8))
    given = [tmp_path / "clip.mkv", tmp_path / "out.lvc", "--weights", tmp_path / "nan.safetensors"]
    assert main(["encode", *map(str, given)]) == 2
    assert LAYER in capsys.readouterr().err
    assert not (tmp_path / "out.lvc").exists()


def test_a_plan_of_such_a_codec_is_refused():
    with pytest.raises(UserError, match=LAYER):
        prune.plan(broken(np.nan), show=False)


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_the_encoder_names_the_graph_that_makes_no_numbers(value):
    """Such as of a codec that was trained a moment ago; 1e30 is a number, and its sums are not."""
    codec = broken(value)
    if value == 1e30:
        codec.get_parameter(LAYER).data[:] = value
    networks = TorchNetworks(codec)
    frame = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(UserError, match=r"graph \w+ makes values that are no numbers"):
        compress(networks, frame, {"reference": np.full((1, 3, 64, 64), 0.5, np.float32)})


def test_an_infinite_value_in_a_buffer_is_a_mask_and_stays():
    class Masked(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, value]))
            self.register_buffer("steps", torch.tensor(3))

    check_finite(Masked(-np.inf), Masked(-np.inf).state_dict(), "file")
    with pytest.raises(UserError, match="file: mask has 1 of 2"):
        check_finite(Masked(np.nan), Masked(np.nan).state_dict(), "file")


def test_half_precision_does_not_make_a_large_weight_infinite(tmp_path):
    codec = broken(1e5)
    checkpoints.save(codec, tmp_path / "half.safetensors", half=True)
    loaded = vcodecs.create("dcvc", "tiny", tmp_path / "half.safetensors")
    assert loaded.get_parameter(LAYER).view(-1)[7] == 1e5
