"""Preset `base`: the official widths where the decoder's time goes, and small files."""

import pytest
import torch
from torch import nn

import vcodecs
from prune.measure.macs import decoder_macs
from vcodecs import Reference, checkpoints

CODECS = ["dcvc", "dcvc_hem", "dcvc_hem_intra", "fvc"]


@pytest.fixture(scope="module", params=CODECS)
def codec(request):
    torch.manual_seed(0)
    return vcodecs.create(request.param, "base").eval()


def test_most_of_the_official_decoder_is_there(codec):
    official = decoder_macs(vcodecs.create(codec.name, "official"), 1088, 1920).total
    assert 0.85 <= decoder_macs(codec, 1088, 1920).total / official <= 1


def test_a_file_in_half_precision_has_at_most_20_megabytes(codec, tmp_path):
    checkpoints.save(codec, tmp_path / "weights.safetensors", half=True)
    assert (tmp_path / "weights.safetensors").stat().st_size <= 20e6


def test_features_come_in_sixteens(codec):
    """All but colours, motion, offsets, scalars and what entropy parameters are made of."""
    odd = {
        f"{name}: {layer.out_channels}"
        for name, layer in codec.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.out_channels % 16
        and layer.out_channels not in (2, 3, 8, 12)
    }
    assert not odd


def test_an_untrained_codec_is_a_classical_one(codec):
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")

    def picture(shift):
        waves = [torch.sin((x + shift) / 7 + c) * torch.cos((y - shift) / 9) for c in range(3)]
        return (0.5 + 0.2 * torch.stack(waves)).unsqueeze(0)

    frame, before = picture(4.0), picture(0.0)
    with torch.no_grad():
        coded = codec(frame, Reference(before), codec.rates()[-1])
    repeated = -10 * torch.log10((before - frame).square().mean())
    assert -10 * torch.log10((coded.frame - frame).square().mean()) > repeated + 5
