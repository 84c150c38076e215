"""Recipes: what is taken, and how each fault is told."""

import copy
import math

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prune.job import Job
from prune.load import load_recipe
from prune.recipe import Recipe, TeacherRecipe
from vcodecs import UserError

TEXT = """\
codec:
  name: dcvc
  preset: tiny
  lambda: 512
data:
  train: procedural
  eval: {kind: procedural, clips: 1, frames: 2, height: 64, width: 96}
  crop: 64
prune:
  budget: 0.5
  align: 1
train:
  phases:
    - {stage: motion, steps: 3}
    - stage: joint
      steps: 2
finetune:
  phases: []
evaluate: {frames: 2, gop: 2}
measure: {height: 64, width: 64}
"""


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe: `TEXT`, or with one part of it replaced."""

    def write(old="", new="", text=TEXT):
        assert old in text
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        return path

    return write


def load(path, *overrides):
    return load_recipe(path, overrides, Recipe)


def fault(path, *overrides, of=load):
    """The one line that a bad recipe is answered with."""
    with pytest.raises(UserError) as caught:
        of(path, *overrides)
    (line,) = str(caught.value).splitlines()
    return line


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
        ("budget: 0.5", "bugdet: 0.5", 10, "prune.bugdet", "did you mean budget?"),
        ("budget: 0.5", "x: 1", 10, "prune.x", "no such setting; there are: align, beta, budget"),
        ("align: 1", "method: magic", 11, "prune.method", "'gradient-decay', 'straight-through'"),
        ("align: 1", "beta: {begin: 0.9, finish: 0.2}", 11, "prune.beta", "0.9 has to be less"),
        ("lambda: 512", "lambda: 0", 4, "codec.lambda", "greater than 0"),
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


# ---------------------------------------------------------------------- faults of YAML


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 1, "holds no settings"),
        ("# nothing yet\n", 1, "holds no settings"),
        ("just words", 1, "holds no settings"),
        ("- a\n- b\n", 1, "holds no settings"),
        ("a: 1\nb: c: d\n", 2, "not valid YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: [1, 2\nb: 3\n", 2, "not valid YAML"),
        ("a: 'open\n", 2, "not valid YAML"),
        ("a: 1\nb: \x07\n", 2, "not valid YAML: an unprintable character"),
        ("a: 1\nb: 2\na: 3\n", 3, "a: this key is there twice"),
        ("a: {b: 1, b: 2}\n", 1, "b: this key is there twice"),
        ("a: 1\n7: 2\n", 2, "a key has to be a name"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key has to be a name"),
        ("null: 1\n", 1, "a key has to be a name"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: &a [*a]\n", 1, "an alias within its own anchor"),
        ("a: &a {b: *a}\n", 1, "an alias within its own anchor"),
        ("a: 1\nb: !!int word\n", 2, '"word" is no value of int'),
        ("a: 1\nb: !!timestamp word\n", 2, '"word" is no value of timestamp'),
        ("a: !!python/object:os.system x\n", 1, "could not determine a constructor"),
        ("a: " + "9" * 5000 + "\n", 1, "is no value of int"),
        ("[" * 5000, 1, "nested too deeply"),
        ("a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("x: &x {a: 1}\ny:\n  <<: [*x, *x]\n", 3, "<< takes one alias"),
    ],
)
def test_yaml_faults_are_one_line_with_a_line_number(recipe, text, line, told):
    path = recipe(text=text)
    message = fault(path)
    assert message.startswith(f"recipe {path}:{line}: ")
    assert told in message


def test_a_few_lines_of_aliases_that_stand_for_billions_of_values_are_read_at_once(recipe):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "a0: no such setting" in fault_lines(recipe(text=TEXT + "\n".join(lines)))[0]


def fault_lines(path):
    with pytest.raises(UserError) as caught:
        load(path)
    return str(caught.value).splitlines()


def test_what_is_no_utf_8_text_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("codec: {name: é}".encode("latin-1"))
    assert fault(path) == f"recipe {path}: not UTF-8 text"
    path.write_bytes(TEXT.encode("utf-16"))
    assert fault(path) == f"recipe {path}: not UTF-8 text"


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "mark.yaml"
    path.write_text(TEXT, encoding="utf-8-sig")
    assert load(path).codec.name == "dcvc"


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert fault(tmp_path / "none.yaml").endswith("cannot be read (No such file or directory)")
    assert fault(tmp_path).endswith("cannot be read (Is a directory)")


# ---------------------------------------------------------------------- faults in overrides


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("prune.budget", "write it as dotted.key=value"),
        ("=1", "write it as dotted.key=value"),
        ("prune..budget=1", "write it as dotted.key=value"),
        (".".join("a" * 30) + "=1", "write it as dotted.key=value"),
        ("prune.budget=2", "prune.budget: Input should be less than or equal to 1 (it is 2)"),
        ("prune.budget=", "prune.budget: Input should be a valid number (it is null)"),
        ("prune.bugdet=1", "prune.bugdet: no such setting (did you mean budget?)"),
        ("prune=1", "prune: a section is expected, with settings of align, beta"),
        ("prune.beta.begin=0.95", "prune.beta: begin 0.95 has to be less than finish 0.9"),
        ("codec={}", "codec.name: this setting is needed"),
        ("train.phases.2.steps=5", "train.phases is a list of 2 entries, counted from 0; '2'"),
        ("train.phases.-1.steps=5", "train.phases is a list of 2 entries"),
        ("train.phases.x=5", "train.phases is a list of 2 entries"),
        (f"train.phases.{'9' * 5000}.steps=5", "train.phases is a list of 2 entries"),
        ("train.phases.0=5", "train.phases.0: a section is expected"),
        ("train.phases.0.steps.x=5", "train.phases.0.steps is 3 and has no keys"),
        ("data.train.path=x", 'data.train is "procedural" and has no keys'),
        ("nonsense.deeper.still=1", "nonsense: no such setting"),
        ("seed=[1", "seed: not valid YAML"),
        ("seed={a: 1, a: 2}", "seed: a: this key is there twice"),
        ("seed=*x", "seed: not valid YAML"),
        ("seed=!!float x", 'seed: "x" is no value of float'),
        ("seed=\ud800", "seed: not valid YAML: an unprintable character"),
    ],
)
def test_a_faulty_override_is_told_as_such(recipe, override, told):
    message = fault(recipe(), override)
    assert message.startswith(f"override {override[:80]!r}"[:-1])
    assert told in message


# ---------------------------------------------------------------------- faults found with the data


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "told"),
    [
        ("name: dcvc", "name: dvcv", 2, "codec.name", "there are: dcvc"),
        ("preset: tiny", "preset: mini", 3, "codec.preset", "there are: official, small, tiny"),
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


# ---------------------------------------------------------------------- any mutation

MUTATIONS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["procedural", "", "~", "1e9999", "0x10", "-", math.inf, -math.inf, math.nan]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=6), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(content):
    """Every container of a tree with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in list(keys):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from places(content[key])


def attempt(path, *overrides):
    """Load; a failure has to be a UserError of whole lines that say where."""
    try:
        load(path, *overrides)
    except UserError as error:
        for line in str(error).splitlines():
            assert line.startswith((f"recipe {path}", "override "))


@MUTATIONS
@given(data=st.data())
def test_a_recipe_with_any_values_replaced_loads_or_is_a_user_error(recipe, data):
    content = copy.deepcopy(yaml.safe_load(TEXT))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from([*places(content)] or [({}, None)]))
        action = data.draw(st.sampled_from(["set", "drop", "add"]))
        if action == "drop":
            container.pop(key, None) if isinstance(container, dict) else container.pop(key)
        elif action == "set" or isinstance(container, list):
            container[key] = data.draw(VALUES)
        else:
            container[data.draw(st.text(max_size=6))] = data.draw(VALUES)
    attempt(recipe(text=yaml.safe_dump(content, allow_unicode=True)))


@MUTATIONS
@given(
    at=st.integers(0, len(TEXT)),
    drop=st.integers(0, 30),
    put=st.text(st.sampled_from("abc012 \n\t:-[]{}&*!|>'\"%@`#,?<=~.\x00\ud7ff\u2028"), max_size=8),
)
def test_a_recipe_with_any_stretch_of_text_replaced_loads_or_is_a_user_error(recipe, at, drop, put):
    attempt(recipe(text=TEXT[:at] + put + TEXT[at + drop :]))


KEYS = st.sampled_from(
    ["prune", "budget", "train", "phases", "0", "1", "data", "eval", "codec", "lambda", "", "x"]
)


@MUTATIONS
@given(
    overrides=st.lists(
        st.one_of(
            st.text(max_size=20),
            st.builds(
                lambda keys, value: f"{'.'.join(keys)}={value}",
                st.lists(KEYS, max_size=4),
                st.one_of(st.text(max_size=12), SCALARS.map(str)),
            ),
        ),
        max_size=3,
    )
)
def test_any_overrides_are_taken_or_a_user_error(recipe, overrides):
    attempt(recipe(), *overrides)
