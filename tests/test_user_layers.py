"""Layers as users' codecs have them: planned, trained, pruned, shrunk, saved, loaded, coded."""

import numpy as np
import pytest
import torch
from plugins import BLOCKS, plugin, trained
from toys import clip

import vcodecs
from lvc.bundle import BundleNetworks
from lvc.program import decompress
from prune.groups.channels import Channels
from prune.groups.find import find_groups
from prune.groups.shrink import check_same, largest_difference, masked_copy, shrunk_copy
from prune.onnx_export.bundle import Size, export_bundle
from prune.sparsify.masked import MaskedGroup
from vcodecs import checkpoints, registry
from vcodecs.coding import TorchNetworks, compress

PRUNABLE = {
    "attention of pixels": {"head": 16, "block.qkv": 16},
    "attention of fixed shape": {"head": 16},
    "heads by width": {"head": 16, "block.q": 4},
    "heads by number, windowed": {"head": 16, "block.qkv": 4},
    "attention of channels": {"head": 16},
    "ConvNeXt": {"block.wide": 64},
    "BatchNorm": {"head": 16, "block.0": 32, "block.3": 16},
    "InstanceNorm": {"head": 16, "block.0": 32, "block.3": 16},
    "GroupNorm": {"head": 16, "block.0": 4, "block.2": 16},
    "depthwise": {"head": 16, "block.2": 32, "block.5": 16},
    "grouped": {"head": 4, "block.3": 16},
    "learnt shift": {"head": 16, "block.0": 16, "block.3": 16},
    "residual over a concatenation": {
        "head": 16,
        "block.a": 16,
        "block.b": 16,
        "block.wide": 32,
        "block.out": 16,
    },
    "one layer twice": {"head": 16, "block.first": 16},
    "one weight in two layers": {"block.c": 16},
}
"""By kind of layer what can go: by group how many channels, or units of several, it has."""

REASONS = {
    "attention of channels": ("block.qkv", "attention of channels"),
    "ConvNeXt": ("head", "normalised by block.norm, a LayerNorm"),
    "one weight in two layers": ("block.a", "block.a has its weight in common with block.b"),
}

every_kind = pytest.mark.parametrize("name", BLOCKS)
with_groups = pytest.mark.parametrize("name", [name for name, found in PRUNABLE.items() if found])


def made(name):
    return plugin(BLOCKS[name])().eval()


def pruned(channels: Channels) -> dict[str, list[int]]:
    """Without 40 % of each group, every time other ones."""
    kept = {}
    for i, group in enumerate(channels.groups):
        gone = {(i + round(2.5 * j)) % group.size for j in range(round(0.4 * group.size))}
        kept[group.name] = [c for c in range(group.size) if c not in gone]
    return kept


@every_kind
def test_what_can_go_is_found_and_the_rest_has_a_reason(name):
    codec = made(name)
    channels = find_groups(codec)
    assert {g.name: g.size for g in channels.groups} == PRUNABLE[name]
    known = {m.layer for g in channels.groups for m in g.members if m.side != "in"}
    for layer, module in codec.named_modules():
        inside = layer.split(".")[0] in codec.decoder_modules()
        if inside and hasattr(module, "weight"):
            assert layer in known | channels.fixed.keys() or "prior" in layer, layer


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_names_layers_and_lines_of_the_codec(name):
    import re

    layer, words = REASONS[name]
    assert re.search(words, find_groups(made(name)).fixed[layer])


@every_kind
def test_what_can_go_does_not_depend_on_values(name):
    codec = made(name)
    before = find_groups(codec)
    assert find_groups(trained(codec)) == before


@with_groups
def test_a_trained_codec_without_channels_is_the_masked_one_also_behind_a_file(name, tmp_path):
    codec = made(name)
    channels = find_groups(codec)
    kept = pruned(channels)
    trained(codec)
    masked, small = masked_copy(codec, channels, kept), shrunk_copy(codec, kept, channels)
    check_same(masked, small, [clip(3)])
    assert largest_difference(codec, masked, [clip(2)]) > 1e-4  # what goes has an effect
    assert parameters(small) < parameters(codec)
    path = tmp_path / "small.safetensors"
    checkpoints.save(small, path, kept)
    vcodecs.register(type(codec))
    again = registry.create("plugin", "only", path).eval()
    assert largest_difference(small, again, [clip(3)]) == 0
    assert widths(again) == widths(small)
    assert widths(shrunk_copy(codec, kept)) == widths(small)  # also where groups are found anew


def parameters(codec):
    return sum(p.numel() for p in codec.parameters())


def widths(codec):
    """All that layers say of their sizes."""
    return [str(layer) for layer in codec.modules() if not [*layer.children()]]


@with_groups
def test_masks_in_training_are_the_masked_copy(name):
    codec = trained(made(name))
    channels = find_groups(codec)
    kept = pruned(channels)
    masked = masked_copy(codec, channels, kept)
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    gates = [MaskedGroup(codec, group) for group in channels.groups]
    for gate in gates:
        mine = torch.tensor(kept[gate.group.name])
        gate.gate.forward = torch.zeros(gate.group.size).index_fill(0, mine, 1)
    assert largest_difference(codec, masked, [clip(3)]) < 1e-6
    for gate in gates:
        gate.unmask()
    after = codec.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "name", ["attention of pixels", "heads by number, windowed", "ConvNeXt", "BatchNorm", "grouped"]
)
def test_a_shrunk_codec_is_exported_coded_and_decoded(name, tmp_path):
    codec = trained(made(name))
    channels = find_groups(codec)
    small = shrunk_copy(codec, pruned(channels), channels)
    with torch.no_grad():
        small.tail.weight.mul_(0.1)
    export_bundle(small, tmp_path, Size(64, 64, dynamic=False))
    picture, frame = clip(2)[:, None]
    before = {"reference": picture.numpy()}
    sent = compress(TorchNetworks(small), frame, before)
    shown = decompress(BundleNetworks(tmp_path), sent.payload, before, (64, 64))
    assert np.abs(shown.following["reference"] - sent.following["reference"]).max() < 1e-4
