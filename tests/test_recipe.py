"""Recipes: what is taken, and how faults of settings are told."""

from functools import partial

import pytest
import yaml
from recipe_text import TEXT, fault, load, write

import vcodecs
from prune.pipeline.job import Job
from prune.pipeline.training import settings_of
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe, TeacherRecipe, TimeBudget
from vcodecs import UserError


@pytest.fixture
def recipe(tmp_path):
    """Writes the recipe, or with one part of it replaced."""
    return partial(write, tmp_path)


def check(path, *overrides):
    Job(load(path, *overrides), path.parent).check()


# ---------------------------------------------------------------------- what is taken


def test_a_valid_recipe_gives_its_settings_and_the_defaults_of_the_others(recipe):
    loaded = load(recipe())
    assert loaded.codec.lagrangian == 512
    assert [phase.steps for phase in loaded.train.phases] == [3, 2]
    assert loaded.finetune.phases == []
    assert loaded.prune.method == "gradient-decay"
    assert str(loaded.output) == "runs/mine"


def test_a_teachers_recipe_needs_no_pruning_sections(recipe):
    text = TEXT.replace("finetune:\n  phases: []\n", "").replace("prune:\n  budget: 0.5\n", "")
    text = text.replace("  align: 1\n", "").replace("measure: {height: 64, width: 64}\n", "")
    assert load_recipe(recipe(text=text), (), TeacherRecipe).codec.name == "dcvc"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("prune.budget=0.25", lambda r: r.prune.budget == 0.25),
        ("prune.budget.latency=0.4", lambda r: r.prune.budget == TimeBudget(latency=0.4)),
        ("prune.budget={latency_ms: 9}", lambda r: r.prune.budget == TimeBudget(latency_ms=9)),
        ("train.phases.0.steps=5", lambda r: r.train.phases[0].steps == 5),
        ("train.phases.1.learning_rate=1e-5", lambda r: r.train.phases[1].learning_rate == 1e-5),
        ("data.eval=some/folder", lambda r: str(r.data.eval[0].path) == "some/folder"),
        ("data.train=[a, procedural]", lambda r: len(r.data.train) == 2),
        ("train.precision=no", lambda r: r.train.precision == "no"),
        ("prune.beta={start: 0.5, end: 0.1}", lambda r: r.prune.beta.start == 0.5),
        ("prune.beta.shape=linear", lambda r: r.prune.beta.shape == "linear"),
        ("codec.checkpoint=null", lambda r: r.codec.checkpoint is None),
        ("output=elsewhere/a=b", lambda r: str(r.output) == "elsewhere/a=b"),
        ("evaluate.intra=hevc:qp=30", lambda r: r.evaluate.intra == "hevc:qp=30"),
        ("seed=010", lambda r: r.seed == 10),
        ("output=12:30", lambda r: str(r.output) == "12:30"),
        ("output=2020-01-01", lambda r: str(r.output) == "2020-01-01"),
        ("train.phases=[]", lambda r: r.train.phases == []),
    ],
)
def test_an_override_sets_one_setting(recipe, override, value):
    assert value(load(recipe(), override))


def test_of_two_overrides_of_one_setting_the_last_holds(recipe):
    assert load(recipe(), "seed=1", "seed=2").seed == 2


def test_sections_left_empty_have_their_defaults(recipe):
    path = recipe("evaluate: {frames: 2, gop: 2}", "evaluate:\noutput:\ndistill:\n  # source: none")
    loaded = load(path, "distill.weight=2")
    assert loaded.evaluate.frames == 9
    assert loaded.distill.weight == 2
    assert str(loaded.output) == "runs/mine"


def test_an_override_changes_one_place_and_not_those_that_share_its_anchor(recipe):
    path = (
        recipe("finetune:\n  phases: []", "finetune: *t")
        .read_text()
        .replace("train:\n", "train: &t\n", 1)
    )
    path = recipe(text=path)
    assert load(path).finetune == load(path).train
    loaded = load(path, "finetune.phases.0.steps=77", "finetune.clip_norm=3")
    assert (loaded.finetune.phases[0].steps, loaded.train.phases[0].steps) == (77, 3)
    assert (loaded.finetune.clip_norm, loaded.train.clip_norm) == (3, 1)


def test_a_merged_section_can_be_changed_in_part_and_its_faults_have_lines(recipe):
    text = TEXT.replace("train:\n", "train: &t\n", 1)
    text = text.replace("finetune:\n  phases: []", "finetune:\n  <<: *t\n  clip_norm: 2")
    assert load(recipe(text=text)).finetune.clip_norm == 2
    path = recipe("clip_norm: 2", "clip_norm: -2", text=text)
    assert fault(path).startswith(f"recipe {path}:19: finetune.clip_norm: ")


# ---------------------------------------------------------------------- faults in the file


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "told"),
    [
        ("budget: 0.5", "budget: 0", 10, "prune.budget", "greater than 0 (it is 0)"),
        ("budget: 0.5", "budget: 1.5", 10, "prune.budget", "less than or equal to 1 (it is 1.5)"),
        ("budget: 0.5", "budget: -0.5", 10, "prune.budget", "greater than 0 (it is -0.5)"),
        ("budget: 0.5", "budget: .nan", 10, "prune.budget", "finite number (it is NaN)"),
        ("budget: 0.5", "budget: .inf", 10, "prune.budget", "finite number (it is Infinity)"),
        ("budget: 0.5", "budget: half", 10, "prune.budget", "number, unable to parse"),
        ("budget: 0.5", "budget: true", 10, "prune.budget", "true and false stand for no number"),
        ("budget: 0.5", "budget:", 10, "prune.budget", "valid number (it is null)"),
        ("budget: 0.5", "budget: [1]", 10, "prune.budget", "valid number (it is a list of 1)"),
        (
            "budget: 0.5",
            "budget: {latency: 2}",
            10,
            "prune.budget.latency",
            "or equal to 1 (it is 2)",
        ),
        ("budget: 0.5", "budget: {latency_ms: 0}", 10, "prune.budget.latency_ms", "greater than 0"),
        ("budget: 0.5", "budget: {latency: yes}", 10, "prune.budget.latency", "unable to parse"),
        ("budget: 0.5", "budget: {}", 10, "prune.budget", "set latency (a part, 0 to 1) or"),
        ("budget: 0.5", "budget: {latency: 1, latency_ms: 2}", 10, "prune.budget", "one of them"),
        ("budget: 0.5", "budget: {latency: 1, runtime: x}", 10, "prune.budget.runtime", "openvino"),
        ("budget: 0.5", "budget: {latncy: 1}", 10, "prune.budget.latncy", "did you mean latency?"),
        ("budget: 0.5", "bugdet: 0.5", 10, "prune.bugdet", "did you mean budget?"),
        ("budget: 0.5", "x: 1", 10, "prune.x", "no such setting; there are: align, beta, budget"),
        ("align: 1", "method: magic", 11, "prune.method", "'gradient-decay', 'straight-through'"),
        ("align: 1", "beta: {begin: 0.9, finish: 0.2}", 11, "prune.beta", "0.9 has to be less"),
        ("lambda: 512", "lambda: 0", 4, "codec.lambda", "greater than 0"),
        ("lambda: 512", "lambda: [85, 0]", 4, "codec.lambda", "greater than 0"),
        ("lambda: 512", "lambda: [85, .inf]", 4, "codec.lambda", "finite"),
        ("lambda: 512", "lambda: [85, x]", 4, "codec.lambda", "number"),
        ("  name: dcvc\n", "", 1, "codec.name", "this setting is needed"),
        ("steps: 2", "steps: 0", 16, "train.phases.1.steps", "greater than or equal to 1"),
        ("steps: 2", "steps: 2.5", 16, "train.phases.1.steps", "valid integer"),
        ("steps: 3}", "steps: 3, stpes: 1}", 14, "train.phases.0.stpes", "did you mean steps?"),
        ("crop: 64", "crop: 100", 8, "data.crop", "multiple of 64 (it is 100)"),
        ("crop: 64", "workers: -1", 8, "data.workers", "greater than or equal to 0"),
        ("train: procedural", "train: []", 6, "data.train", "at least 1 item"),
        ("train: procedural", "train:", 6, "data.train", "at least 1 item"),
        ("train: procedural", "train: [7]", 6, "data.train.0", "a section is expected"),
        ("train: procedural", "train: [{kind: images}]", 6, "data.train.0", "name a `path`"),
        ("train: procedural", "train: {path: a, fps: .inf}", 6, "data.train.0.fps", "finite"),
        ("finetune:\n  phases: []", "finetune: 3", 17, "finetune", "a section is expected"),
        ("finetune:\n  phases: []", "finetune:", 17, "finetune.phases", "this setting is needed"),
        ("finetune:\n  phases: []\n", "", 1, "finetune", "this setting is needed"),
        ("evaluate:", "evaluation:", 19, "evaluation", "did you mean evaluate?"),
        ("measure: {height: 64", "measure: {height: 9000", 20, "measure.height", "8192"),
        ("measure:", "seed: 99999999999999\nmeasure:", 20, "seed", "less than 4294967296"),
        ("measure:", "seed: true\nmeasure:", 20, "seed", "true and false stand for no number"),
        ("measure:", "output: {}\nmeasure:", 20, "output", "path"),
    ],
)
def test_a_fault_is_one_line_with_file_and_line_key_value_and_what_is_allowed(
    recipe, old, new, line, key, told
):
    path = recipe(old, new)
    message = fault(path)
    assert message.startswith(f"recipe {path}:{line}: {key}: ")
    assert told in message


def test_every_fault_of_a_recipe_is_told_at_once(recipe):
    with pytest.raises(UserError) as caught:
        load(recipe("budget: 0.5", "budget: 2\n  floor: 7"), "seed=-1")
    assert len(str(caught.value).splitlines()) == 3


def test_hundreds_of_faults_are_counted_instead_of_told(recipe):
    steps = ", ".join(["{stage: motion, steps: 0}"] * 300)
    with pytest.raises(UserError) as caught:
        load(recipe("phases: []", f"phases: [{steps}]"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1].endswith("290 more faults")


def test_a_long_value_is_shortened(recipe):
    assert len(fault(recipe("budget: 0.5", f"budget: {'9' * 4000}"))) < 400
    assert len(fault(recipe(), f"prune.budget={'x' * 4000}")) < 400
    assert len(fault(recipe(), f"{'x' * 4000}=1")) < 600


# ---------------------------------------------------------------------- lambdas

HEM = ("codec.name=dcvc_hem", "codec.lambda=[85, 170, 380, 840]")


def lambdas(loaded):
    """Rate points and lambdas that the recipe's codec is trained with."""
    codec = vcodecs.create(loaded.codec.name, loaded.codec.preset)
    tradeoff = settings_of(loaded, loaded.train, codec).tradeoff
    return dict(zip(tradeoff.points, tradeoff.lagrangians, strict=True))


def test_a_codec_of_one_lambda_takes_a_number_or_a_list_of_one(recipe):
    assert lambdas(load(recipe())) == {None: 512}
    assert lambdas(load(recipe("lambda: 512", "lambda: [256]"))) == {None: 256}


def test_a_codec_of_many_rates_takes_a_lambda_for_each_of_its_rate_points(recipe):
    expected = {0: 85, 1: 170, 2: 380, 3: 840}
    assert lambdas(load(recipe(), *HEM)) == expected
    path = recipe("name: dcvc", "name: dcvc_hem").read_text()
    path = recipe("lambda: 512", "lambda: [85, 170, 380, 840]", text=path)
    assert lambdas(load(path)) == expected


def test_lambdas_rise_with_the_rates(recipe):
    path = recipe("name: dcvc", "name: dcvc_hem").read_text()
    path = recipe("lambda: 512", "lambda: [840, 85, 170, 380]", text=path)
    assert "lambdas have to rise" in fault(path, of=lambda path: lambdas(load(path)))


def test_the_other_settings_of_a_training_come_from_its_own_section(recipe):
    loaded = load(
        recipe("phases: []", "phases: []\n  clip_norm: 2.5\n  intra_noise: 0.1"), "seed=3"
    )
    codec = vcodecs.create("dcvc", "tiny")
    own = settings_of(loaded, loaded.finetune, codec)
    assert (own.clip_norm, own.intra_noise, own.seed) == (2.5, 0.1, 3)
    assert settings_of(loaded, loaded.train, codec).clip_norm == 1
    assert own.tradeoff == settings_of(loaded, loaded.train, codec).tradeoff


@pytest.mark.parametrize(
    ("name", "written", "told"),
    [
        ("dcvc", "[85, 170]", "codec dcvc has 1 rate point: give one number"),
        ("dcvc", "[]", "codec dcvc has 1 rate point: give one number"),
        ("dcvc_hem", "512", "codec dcvc_hem has 4 rate points: give a list of 4"),
        ("dcvc_hem", "[85, 170, 380]", "codec dcvc_hem has 4 rate points: give a list of 4"),
        ("dcvc_hem_intra", "[1, 2, 3, 4, 5]", "codec dcvc_hem_intra has 4 rate points"),
    ],
)
def test_a_wrong_number_of_lambdas_is_told_before_anything_starts(recipe, name, written, told):
    path = recipe("name: dcvc", f"name: {name}").read_text()
    path = recipe("lambda: 512", f"lambda: {written}", text=path)
    stages = [f"{key}.phases=[]" for key in ("train", "finetune")]
    for of in (lambda path: check(path, *stages), lambda path: lambdas(load(path))):
        message = fault(path, of=of)
        assert message.startswith(f"recipe {path}:4: codec.lambda: {told}")
    message = fault(path, f"codec.lambda={written}", of=lambda *given: lambdas(load(*given)))
    assert message.startswith(f"override 'codec.lambda={written}': codec.lambda: {told}")


# ---------------------------------------------------------------------- faults found with the data


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "told"),
    [
        ("name: dcvc", "name: dvcv", 2, "codec.name", "there are: dcvc"),
        (
            "preset: tiny",
            "preset: mini",
            3,
            "codec.preset",
            "there are: official, base, small, tiny",
        ),
        ("lambda: 512", "checkpoint: none.pth", 4, "codec.checkpoint", "none.pth: no such file"),
        ("stage: joint", "stage: jiont", 15, "train.phases.1.stage", "there are: flow, motion"),
        ("train: procedural", "train: /no/such", 6, "data.train.0", "/no/such: no such file"),
        ("train: procedural", "train: [procedural, none]", 6, "data.train.1", "none: no such file"),
        ("kind: procedural, clips: 1", "path: none", 7, "data.eval.0", "none: no such file"),
        ("kind: procedural, clips: 1", "kind: procedural", 7, "data.eval.0", "set its `clips`"),
        ("{frames: 2,", "{frames: 3,", 19, "evaluate.frames", "2 frames, 3 needed"),
        ("gop: 2}", "gop: 2, intra: jpeg}", 19, "evaluate.intra", "choose one of hevc"),
        ("budget: 0.5", "budget: 0.001", 10, "prune.budget", "of the MACs stay"),
        ("align: 1", "align: 64", 10, "prune.budget", "with align 64"),
    ],
)
def test_what_only_codec_and_data_can_tell_is_told_with_its_line_too(
    recipe, old, new, line, key, told
):
    path = recipe(old, new)
    message = fault(path, of=check)
    assert message.startswith(f"recipe {path}:{line}: {key}: ")
    assert told in message


def test_a_crop_larger_than_the_clips_is_told_with_both_sizes(recipe, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.yuv").write_bytes(bytes(96 * 80 * 3 // 2 * 3))
    source = "{path: clips, kind: yuv, size: 96x80, fps: 30}"
    path = recipe("train: procedural", f"train: {source}")
    check(path)
    message = fault(path, "data.crop=128", of=check)
    assert message.startswith("override 'data.crop=128': data.crop: ")
    assert "96x80 pixels, 128x128 needed" in message
    own = fault(path, "train.phases.1.crop=192", of=check)
    assert own.startswith("override 'train.phases.1.crop=192': train.phases.1.crop: ")


def test_an_output_that_is_a_file_is_refused(recipe, tmp_path):
    (tmp_path / "taken").write_text("")
    message = fault(recipe(), f"output={tmp_path / 'taken'}", of=check)
    assert message.endswith(f"output: {tmp_path / 'taken'} is a file")


def test_a_recipe_made_in_code_names_the_setting_without_a_line():
    content = yaml.safe_load(TEXT) | {"output": "out"}
    content["codec"]["name"] = "none"
    message = fault(None, of=lambda _: Job(Recipe.model_validate(content), None).check())
    assert message.startswith("codec.name: ")
