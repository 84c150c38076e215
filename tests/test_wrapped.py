"""Weights are found inside of what training scripts put around them, or the choice is named."""

import logging
from argparse import Namespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_fill import fill_codec
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

import vcodecs
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError, checkpoints

CODEC = fill_codec(vcodecs.create("dcvc", "tiny")).eval()
STATE = CODEC.state_dict()
OTHER = {name: 0 * value for name, value in STATE.items()}


def below(prefix, state=STATE):
    return {f"{prefix}.{name}": value for name, value in state.items()}


def saved(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def load(path, key=None):
    return vcodecs.create("dcvc", "tiny", path, key=key).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def refusal(path, key=None):
    with pytest.raises(UserError) as caught:
        load(path, key)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


WRAPPED = {
    "_orig_mod": below("_orig_mod"),
    "module._orig_mod": below("module", below("_orig_mod")),
    "module": AveragedModel(CODEC).state_dict(),
    "model_state_dict": {"epoch": 3, "model_state_dict": STATE},
    "ema": {"ema": STATE, "step": torch.tensor(3)},
    "ema.module": {"ema": AveragedModel(CODEC).state_dict()},
    "params_ema": {"params_ema": STATE},
    "state_dict.model": {
        "state_dict": below("model") | {"metric.total": torch.zeros(2)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "hyper_parameters": {"lr": 1e-4},
    },
    "state_dict.net.module._orig_mod": {
        "state_dict": {"net": below("module", below("_orig_mod"))},
    },
}


@pytest.mark.parametrize("place", WRAPPED)
def test_one_set_of_weights_is_taken_from_wherever_it_is_and_said(place, tmp_path, caplog):
    path = saved(WRAPPED[place], tmp_path)
    with caplog.at_level(logging.WARNING, "vcodecs"):
        assert same(load(path), STATE)
    assert caplog.messages == [f"checkpoint {path}: took the weights under `{place}`"]


def test_options_and_scores_of_a_training_do_no_harm(tmp_path):
    scores = {"best": np.float64(31.2), "loss": np.float32(0.3), "step": np.int64(9)}
    content = scores | {"args": Namespace(lr=1e-4, name="mine"), "net": STATE}
    assert same(load(saved(content, tmp_path)), STATE)


def test_nothing_is_said_of_a_file_of_weights_alone(tmp_path, caplog):
    assert same(load(saved(STATE, tmp_path)), STATE)
    assert caplog.messages == []


def test_a_safetensors_file_of_others_is_unwrapped_too(tmp_path):
    save_file(below("module"), tmp_path / "model.safetensors")
    assert same(load(tmp_path / "model.safetensors"), STATE)


def test_several_sets_that_are_equal_are_no_question(tmp_path):
    assert same(load(saved({"params": STATE, "params_ema": STATE}, tmp_path)), STATE)


@pytest.mark.parametrize(
    ("content", "places", "key"),
    [
        ({"params": OTHER, "params_ema": STATE}, ("params", "params_ema"), "params_ema"),
        (
            {"state_dict": OTHER, "state_dict_ema": STATE},
            ("state_dict", "state_dict_ema"),
            "state_dict_ema",
        ),
        (
            {"state_dict": below("model", OTHER) | below("model_ema")},
            ("state_dict.model", "state_dict.model_ema"),
            "state_dict.model_ema",
        ),
        ({"model": OTHER, "ema": {"module": STATE}}, ("model", "ema.module"), "ema"),
        (STATE | {"ema": OTHER}, ("the file itself", "ema"), None),
    ],
    ids=["BasicSR", "timm", "Lightning", "nested", "beside the weights"],
)
def test_of_several_sets_one_has_to_be_named(content, places, key, tmp_path):
    path = saved(content, tmp_path)
    message = refusal(path)
    assert ", ".join(places) in message
    assert f"codec.checkpoint: {{path: {path}, key: {places[-1]}}}" in message
    if key:
        assert same(load(path, key), STATE)


def test_of_a_student_and_its_teacher_the_one_of_the_right_widths_is_taken(tmp_path):
    wide = vcodecs.create("dcvc", "small").state_dict()
    content = {"state_dict": below("teacher", wide) | below("student")}
    assert same(load(saved(content, tmp_path)), STATE)


def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    message = refusal(saved({"epoch": 3, "params": STATE}, tmp_path), "params_ema")
    assert "under 'params_ema'; its keys: epoch, params" in message


def test_a_set_that_almost_fits_is_told_what_it_lacks(tmp_path):
    state = {name: value for name, value in STATE.items() if name != "mvEncoder.0.weight"}
    assert "mvEncoder.0.weight" in refusal(saved({"ema": below("module", state)}, tmp_path))


def test_keys_of_a_file_without_weights_are_listed_and_cannot_write_to_the_terminal(tmp_path):
    message = refusal(saved({"epoch": 3, "\x1b[31mred": [1]}, tmp_path))
    assert "holds no state dict (tensors by name); its keys: epoch, [31mred" in message


def test_a_dictionary_within_itself_ends(tmp_path):
    content: dict = {"state_dict": STATE}
    content["again"] = {"again": content}
    assert same(load(saved(content, tmp_path)), STATE)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    prefixes=st.lists(
        st.sampled_from(["module", "_orig_mod", "model", "net", "ema_model"]), max_size=4
    )
)
def test_prefixes_come_off_in_any_order(prefixes, tmp_path_factory):
    state = STATE
    for prefix in prefixes:
        state = below(prefix, state)
    assert same(load(saved(state, tmp_path_factory.getbasetemp())), STATE)


def test_a_recipe_names_the_key_in_the_file_and_on_the_command_line(tmp_path):
    text = "codec: {name: dcvc, checkpoint: {path: a.pth, key: params_ema}}\n"
    text += "data: {train: procedural, eval: procedural}\n"
    text += "train: {phases: []}\nfinetune: {phases: []}\n"
    (tmp_path / "r.yaml").write_text(text)
    read = load_recipe(tmp_path / "r.yaml", [], Recipe).codec.checkpoint
    assert (read.path, read.key) == ("a.pth", "params_ema")
    override = ["codec.checkpoint={path: b.pth, key: ema}"]
    read = load_recipe(tmp_path / "r.yaml", override, Recipe).codec.checkpoint
    assert (read.path, read.key) == ("b.pth", "ema")


def test_a_recipe_without_a_key_is_written_as_before(tmp_path):
    """So that runs that were begun before there were keys go on."""
    section = Recipe.model_fields["codec"].annotation
    given = {"name": "dcvc", "checkpoint": "dcvc_small"}
    assert section.model_validate(given).model_dump()["checkpoint"] == "dcvc_small"


def test_a_file_of_ours_needs_no_word_about_what_was_taken(tmp_path, caplog):
    checkpoints.save(CODEC, tmp_path / "ours.safetensors")
    assert same(load(tmp_path / "ours.safetensors"), STATE)
    assert caplog.messages == []


def test_averaged_weights_deep_inside_are_found_beside_the_raw_ones(tmp_path):
    raw = below("model") | {f"loss.vgg.{i}.weight": torch.ones(3) for i in range(3)}
    averages = {"EMA": {"ema_state_dict": below("model", OTHER)}}
    path = saved({"state_dict": raw, "callbacks": averages}, tmp_path)
    told = refusal(path)
    assert "state_dict.model" in told and "callbacks.EMA.ema_state_dict.model" in told
    assert same(load(path, "callbacks.EMA"), OTHER)


def test_a_key_may_be_the_end_of_the_place(tmp_path):
    path = saved({"state_dict": below("net") | below("ema_net", OTHER)}, tmp_path)
    assert same(load(path, "ema_net"), OTHER) and same(load(path, "net"), STATE)


FIRST = next(name for name, value in STATE.items() if value.dim() == 4)
KINDS = {
    "sparse": lambda x: x.to_sparse(),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
    "without values": lambda x: x.to("meta"),
    "whole numbers": lambda x: torch.ones_like(x, dtype=torch.int8),
    "complex": lambda x: x.to(torch.complex64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_numbers_are_no_weights(kind, tmp_path):
    assert FIRST in refusal(saved(STATE | {FIRST: KINDS[kind](STATE[FIRST])}, tmp_path))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_weights(kind, tmp_path):
    path = saved({name: value.to(kind) for name, value in STATE.items()}, tmp_path)
    found = load(path)
    assert all(value.dtype == STATE[name].dtype for name, value in found.items())
    assert torch.allclose(found[FIRST], STATE[FIRST], rtol=1e-2)


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
)
def test_one_file_of_several_says_so(name, tmp_path):
    save_file({FIRST: STATE[FIRST].contiguous()}, tmp_path / name)
    assert "one file of several" in refusal(tmp_path / name)


def test_names_of_tensors_do_not_reach_a_terminal_as_they_are(tmp_path):
    assert "\x1b" not in refusal(saved({"\x1b[31mx": torch.ones(2)}, tmp_path))
