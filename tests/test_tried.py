"""What a run needs of a codec at its end is tried before anything is trained."""

import re
import sys
from pathlib import Path

import pytest
import strided
import torch
from torch import nn

import prune
from prune.onnx_export.bit_parity import check_bundle
from prune.onnx_export.bundle import Size, export_bundle
from prune.pipeline import work
from prune.pipeline.job import Job
from prune.pipeline.tried import try_out
from prune.plan import command
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError
from vcodecs.contract import GraphTensor

RECIPE = """\
codec: {{name: "{file}:{kind}", preset: tiny}}
data: {{train: procedural, eval: {{kind: procedural, clips: 1, height: 64, width: 64}}}}
prune: {{budget: 0.63, align: 1}}
train: {{phases: [{{stage: joint, steps: 1000000}}]}}
finetune: {{phases: []}}
measure: {{height: 128, width: 128}}
output: {output}
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe's file for a class in strided.py."""

    def write(kind):
        text = RECIPE.format(file=Path(strided.__file__), kind=kind, output=tmp_path / "run")
        (tmp_path / "recipe.yaml").write_text(text)
        return tmp_path / "recipe.yaml"

    return write


def clip(side=128):
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------- strides


@pytest.mark.parametrize(("latent", "hyper"), [(16, 32), (8, 32), (32, 64)])
def test_latents_at_any_stride_are_coded_and_decoded_by_torch_and_onnxruntime(
    latent, hyper, tmp_path
):
    kind = type("Here", (strided.Strided,), {"latent_stride": latent, "hyper_stride": hyper})
    torch.manual_seed(0)
    codec = kind().eval()
    export_bundle(codec, tmp_path, Size(128, 128))
    assert check_bundle(codec, tmp_path, clip()) == 2


@pytest.mark.parametrize("stride", [3, 128, 16.5, -1])
def test_a_stride_that_no_padded_frame_has_is_refused_when_a_graph_is_made(stride):
    with pytest.raises(UserError, match="strides of 1, 2, 4, 8, 16, 32, 64"):
        GraphTensor(3, stride)
    kind = type("Far", (strided.Strided,), {"hyper_stride": 128})
    with pytest.raises(UserError, match="codec strided: graph prior: stride 128"):
        kind().decoder_graphs(64, 64)


# ---------------------------------------------------------------------- what cannot be exported


class Flat(nn.Module):
    """Attention of one head, its queries in three dimensions."""

    def forward(self, x):
        flat = x.flatten(2).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(flat, flat, flat)
        return mixed.transpose(1, 2).reshape(x.shape)


class Bessel(nn.Module):
    def forward(self, x):
        return x + torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Raises(nn.Module):
    def forward(self, x):
        return x.flatten(2)[:, :, :256].reshape(1, 8, 4, 64)[..., : x.shape[3]] + x


@pytest.mark.parametrize(
    ("block", "operation", "way"),
    [
        (strided.Clamp, r"aten\.clamp \(\S*strided\.py:\d+\)", r"clamp\(0\.1, 50\.0\)"),
        (Flat, r"aten\.scaled_dot_product_attention", r"four dimensions"),
        (Bessel, r"prims\.bessel_j0", r"operations that ONNX has"),
        (Branch, r"a branch on the values of tensors", r"torch\.where"),
        (Raises, r"", r""),
    ],
)
def test_an_operation_without_a_translation_is_one_line_with_a_way_out(
    block, operation, way, tmp_path, capfd
):
    kind = type("Mine", (strided.Strided,), {"make_block": lambda _: block()})
    with pytest.raises(UserError) as caught:
        export_bundle(kind().eval(), tmp_path / "onnx", Size(128, 128))
    message = str(caught.value)
    assert message.startswith("graph picture cannot be exported to ONNX: ")
    assert re.search(operation, message) and re.search(way, message)
    assert "\n" not in message and "\x1b" not in message and len(message) < 700
    assert not (tmp_path / "onnx" / "bundle.json").exists()
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------------- before training


def test_a_codec_that_has_all_is_tried_in_full(recipe):
    job = Job(load_recipe(recipe("Strided"), (), Recipe), Path())
    tried = try_out(job)
    assert (tried.graphs, tried.frames) == (2, 2)
    assert "2 graphs exported and run, 2 frames coded and decoded" in str(tried)


def test_a_run_stops_before_it_trains(recipe, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(work, "sparsify", lambda *_: trained.append(1))
    loaded = load_recipe(recipe("Clamped"), (), Recipe)
    with pytest.raises(UserError, match=r"export: graph picture cannot be exported.*aten\.clamp"):
        prune.run(loaded, tmp_path)
    assert not trained and not (tmp_path / "run" / "sparse").exists()


def test_a_run_exports_the_dense_codec_once_before_it_trains(recipe, tmp_path, monkeypatch):
    class Trained(Exception):
        pass

    def sparsify(*_):
        raise Trained

    exported, export_one = [], work.export_bundle
    note = lambda codec, folder, *rest: exported.append(folder) or export_one(codec, folder, *rest)  # noqa: E731
    monkeypatch.setattr(work, "export_bundle", note)
    monkeypatch.setattr(work, "sparsify", sparsify)
    with pytest.raises(Trained):
        prune.run(load_recipe(recipe("Strided"), (), Recipe), tmp_path)
    assert exported == [tmp_path / "run" / "onnx_dense"]


def test_the_plan_s_check_says_what_was_tried_or_what_fails(recipe, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plan", str(recipe("Strided")), "--check"])
    command()
    assert "Tried: 2 graphs exported and run" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(sys, "argv", ["plan", str(recipe("Clamped")), "--check"])
    with pytest.raises(UserError, match="graph picture"):
        command()


class Loses(strided.Strided):
    name = "loses"

    def coding(self):
        raise ValueError("no tables\nfor this")


def test_a_codec_whose_own_code_fails_is_one_line(recipe, monkeypatch):
    job = Job(load_recipe(recipe("Strided"), (), Recipe), Path())
    torch.manual_seed(0)
    job.__dict__["teacher"] = Loses().eval()
    with pytest.raises(UserError) as caught:
        try_out(job)
    assert str(caught.value) == "export: ValueError: no tables"


def test_a_codec_that_does_not_come_back_from_its_file_is_told(recipe, monkeypatch):
    job = Job(load_recipe(recipe("Strided"), (), Recipe), Path())

    def other(path):
        codec = Job.load(job, path)
        codec.tail.weight.data.mul_(2)
        return codec

    monkeypatch.setattr(job, "load", other)
    with pytest.raises(UserError, match=r"shrinking, saving and loading: .* codes other pictures"):
        try_out(job)
