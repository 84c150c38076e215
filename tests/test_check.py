"""What export and coding need is found out before training, and told in one line."""

import sys

import pytest
import torch
from plugins import conv, plugin
from torch import nn
from torch.nn import functional as F

import vcodecs
from prune.onnx_export.bundle import Size, export_bundle
from prune.onnx_export.failures import cannot_run
from prune.pipeline.job import Job
from prune.plan import command
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError


class Clamped(nn.Module):
    def forward(self, x):
        return x.clamp(-3.5, 50)


class Branching(nn.Module):
    def forward(self, x):
        return x if float(x.sum()) > 0 else -x


class Decomposed(nn.Module):
    def forward(self, x):
        return x + torch.linalg.svd(x[0, 0, :4, :4])[1].sum()


class AttentionOfThree(nn.Module):
    """Scaled dot products of three-dimensional tensors: (N, L, E)."""

    def forward(self, x):
        y = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(y, y, y).transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize(
    ("block", "operation", "way"),
    [
        (Clamped, "clamp", "both bounds as numbers of one kind"),
        (Branching, "item", "choose by torch.where"),
        (Decomposed, "linalg_svd", "of operations that ONNX has"),
    ],
)
def test_an_export_that_fails_names_graph_operation_line_and_way_out(
    block, operation, way, tmp_path, capfd
):
    with pytest.raises(UserError) as told:
        export_bundle(plugin(lambda _: block())().eval(), tmp_path, Size(64, 64, dynamic=False))
    message = str(told.value)
    assert message.startswith(f"graph picture: torch's {operation} ")
    assert "(test_check.py:" in message or operation == "linalg_svd"  # torch keeps no line of it
    assert way in message
    assert "\n" not in message
    assert len(message) < 500
    assert not (tmp_path / "bundle.json").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_attention_without_heads_is_exported_or_explained(tmp_path):
    codec = plugin(lambda _: AttentionOfThree())().eval()
    try:
        export_bundle(codec, tmp_path, Size(64, 64, dynamic=False))
    except UserError as error:
        assert "one head" in str(error)


def test_what_onnxruntime_says_becomes_one_line():
    message = str(cannot_run("picture", RuntimeError("no kernel\nfor this\nat all")))
    assert message == "graph picture: onnxruntime cannot run it: no kernel"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "codec: {name: plugin}\n"  # a codec of one preset needs none
        "data: {train: /no/clips/here, eval: /nor/there}\n"
        "prune: {budget: 0.8, align: 1}\n"
        "train: {phases: [{stage: joint, steps: 1000000}]}\n"
        "finetune: {phases: []}\n"
        "measure: {height: 64, width: 128}\n"
        "export: {height: 64, width: 64, dynamic: false}\n"
    )
    return path


def test_a_plan_that_is_checked_says_what_was_tried(recipe, monkeypatch, capsys):
    vcodecs.register(plugin(lambda width: conv(width, width)))
    monkeypatch.setattr(sys, "argv", ["prune.plan", str(recipe), "--check"])
    command()
    said = " ".join(capsys.readouterr().out.split())
    assert "Checked: 2 graphs exported and run by onnxruntime, frames coded and decoded" in said


def test_a_codec_that_is_another_one_behind_a_file_is_told(recipe, monkeypatch):
    class Forgetful(nn.Module):
        """Holds a value that no state has."""

        made = 0

        def __init__(self):
            super().__init__()
            Forgetful.made += 1
            self.factor = float(Forgetful.made)

        def forward(self, x):
            return self.factor * x

    vcodecs.register(plugin(lambda width: nn.Sequential(conv(width, width), Forgetful())))
    monkeypatch.setattr(sys, "argv", ["prune.plan", str(recipe), "--check"])
    with pytest.raises(UserError, match="behind a file it is another codec"):
        command()


def test_a_recipe_that_names_no_preset_takes_that_of_its_checkpoint(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "codec: {name: dcvc, checkpoint: dcvc_small}\ndata: {train: a, eval: b}\n"
        "train: {phases: [{stage: joint, steps: 1}]}\nfinetune: {phases: []}\n"
    )
    assert Job(load_recipe(path, (), Recipe), tmp_path).teacher.preset == "small"
