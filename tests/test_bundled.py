"""The bundled weights: they fit their codec, are trained and have a card; recipes name them."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

import vcodecs
from prune.data import SourceSpec, open_source
from vcodecs import Reference, checkpoints

ROOT = Path(__file__).parents[1]
WEIGHTS = sorted(checkpoints.BUNDLED.glob("*.safetensors"))
PER_SMALL_CODEC, PER_FILE, ALL = 8_000_000, 20_000_000, 70_000_000
"""Bytes: of a small codec's weights with its I frames', of any file, of all files."""

each = pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def clip():
    source = open_source(SourceSpec(kind="procedural", clips=1, height=192, width=192, seed=5))
    return torch.from_numpy(source.read(0, 0, 3)).float() / 255


@each
def test_weights_fit_their_codec_and_have_a_card(path):
    origin = checkpoints.origin(path)
    codec = vcodecs.create(origin["codec"], origin["preset"], path.stem)
    assert path.stem == f"{codec.name}_{codec.preset}"
    assert "prune.train" in path.with_suffix(".md").read_text(encoding="utf-8")


@each
def test_weights_are_trained(path, clip):
    origin = checkpoints.origin(path)
    codec = vcodecs.create(origin["codec"], origin["preset"], path.stem).eval()
    reference = Reference(clip[:1])
    with torch.no_grad():
        for frame in clip[1:].split(1):
            coded = codec(frame, reference, codec.rates()[-1])
            reference = coded.reference
            psnr = -10 * (coded.frame - frame).square().mean().log10()
            assert psnr > 24 and coded.total_bits() < 1.5 * frame[0, 0].numel()


def test_weights_are_small():
    sizes = {path.stem: path.stat().st_size for path in WEIGHTS}
    assert max(sizes.values()) <= PER_FILE
    assert sum(sizes.values()) <= ALL
    small = Counter()
    for name, size in sizes.items():
        if name.endswith("_small"):
            small[name.removesuffix("_small").removesuffix("_intra")] += size
    assert max(small.values()) <= PER_SMALL_CODEC


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_that_runs_out_of_the_box_names_bundled_weights(path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert recipe["codec"]["checkpoint"] in {weights.stem for weights in WEIGHTS}
