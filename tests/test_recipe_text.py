"""Recipes as text: YAML and overrides, and whatever else somebody may write there."""

import copy
import math
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_text import TEXT, fault, load, write

from vcodecs import UserError


@pytest.fixture
def recipe(tmp_path):
    """Writes the recipe, or with one part of it replaced."""
    return partial(write, tmp_path)


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
    assert fault("none").endswith("recipe none: cannot be read (No such file or directory)")
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


# ---------------------------------------------------------------------- by name


@pytest.mark.parametrize("name", ["dcvc", "dcvc_hem", "fvc", "paper/dcvc"])
def test_a_recipe_that_leanvc_brings_along_is_found_by_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)  # a folder of that name is no recipe
    here = Path(__file__).parents[1] / "recipes" / f"{name}.yaml"
    assert load(name, "output=x").model_dump() == load(here, "output=x").model_dump()


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dcvc").write_text(TEXT)
    assert load("dcvc").codec.preset == "tiny"
