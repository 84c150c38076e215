"""Steps that are done once."""

import json

import pytest

from lvc.files import leftovers, replacing
from prune.pipeline.steps import RECORD, Steps, read_json, write_json
from prune.training.saved_state import STATE
from vcodecs import UserError


class Killed(BaseException):
    """Stands for the process's end in the midst of a step."""


@pytest.fixture
def run(tmp_path):
    """Runs a chain of steps as a new process would: `run(a=1, b=2)`; returns those worked on."""

    def chain(after=None, fail=None, **inputs):
        worked = []

        def work(name):
            def leave_results(folder):
                worked.append(name)
                if fail == name:
                    (folder / STATE).write_text("half way")
                    raise Killed
                (folder / STATE).write_text("all the way")
                (folder / f"{name}.txt").write_text(f"{name} {inputs[name]}")

            return leave_results

        step = Steps(tmp_path)
        try:
            for name, value in inputs.items():
                step(name, value, work(name), (after or {}).get(name))
        except Killed:
            pass
        chain.seconds = step.seconds
        return worked

    return chain


def test_a_step_is_done_once_and_keeps_its_results(run, tmp_path):
    assert run(a=1, b=2) == ["a", "b"]
    assert run(a=1, b=2) == []
    assert (tmp_path / "b" / "b.txt").read_text() == "b 2"


def test_changed_inputs_redo_the_step_and_those_behind_it_but_none_before(run):
    run(a=1, b=2, c=3)
    assert run(a=1, b={"x": [2]}, c=3) == ["b", "c"]
    assert run(a=1, b={"x": [2]}, c=3) == []


def test_a_step_builds_on_the_one_it_names_instead_of_the_one_before_it(run):
    branches = {"c": "a", "d": "c"}
    run(branches, a=1, b=2, c=3, d=4)
    assert run(branches, a=1, b=5, c=3, d=4) == ["b"]
    assert run(branches, a=1, b=5, c=6, d=4) == ["c", "d"]
    assert run(branches, a=7, b=5, c=6, d=4) == ["a", "b", "c", "d"]


def test_the_order_of_keys_in_the_inputs_does_not_matter(run):
    run(a={"x": 1, "y": 2})
    assert run(a={"y": 2, "x": 1}) == []


def test_an_unfinished_step_goes_on_in_what_it_left(run, tmp_path):
    assert run(a=1, b=2, fail="b") == ["a", "b"]
    assert (tmp_path / "b" / STATE).read_text() == "half way"
    seen = []
    step = Steps(tmp_path)
    step("a", 1, lambda folder: None)
    step("b", 2, lambda folder: seen.append((folder / STATE).read_text()))
    assert seen == ["half way"]


def test_what_an_unfinished_step_left_is_thrown_away_when_its_inputs_change(run, tmp_path):
    run(a=1, b=2, fail="b")
    seen = []
    step = Steps(tmp_path)
    step("a", 1, lambda folder: None)
    step("b", 3, lambda folder: seen.append((folder / STATE).exists()))
    assert seen == [False]


def test_training_state_is_removed_once_the_step_is_done(run, tmp_path):
    run(a=1)
    assert not (tmp_path / "a" / STATE).exists()
    assert run(a=1) == []


def test_a_step_whose_results_are_gone_is_done_anew_and_those_that_built_on_it(run, tmp_path):
    run(a=1, b=2, c=3)
    (tmp_path / "b" / "b.txt").unlink()
    assert run(a=1, b=2, c=3) == ["b", "c"]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        '{"fingerprint": "x"}',
        '{"done": true}',
        '{"fingerprint": "x", "made": "y", "done": true, "results": 3}',
        '{"fingerprint": "x", "made": "y", "extra": 1}',
        "\x00\x01",
        "[" * 100_000,
    ],
)
def test_a_step_with_a_damaged_record_is_done_anew(run, tmp_path, damage):
    run(a=1, b=2)
    (tmp_path / "a" / RECORD).write_text(damage)
    assert run(a=1, b=2) == ["a", "b"]
    assert run(a=1, b=2) == []


def test_a_record_that_is_no_text_is_damaged_too(run, tmp_path):
    run(a=1)
    (tmp_path / "a" / RECORD).write_bytes(b"\xff\xfe{")
    assert run(a=1) == ["a"]


def test_files_that_no_run_has_made_are_never_removed(run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    (tmp_path / "a" / ".notes.txt").write_text("more of it")
    with pytest.raises(UserError, match="holds files that no run has made") as caught:
        run(a=1)
    assert str(tmp_path / "a") in str(caught.value)
    assert (tmp_path / "a" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "a" / ".notes.txt").exists()


def test_a_file_in_the_place_of_a_steps_folder_is_refused(run, tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(a=1)


def test_a_kill_while_an_old_folder_is_emptied_leaves_it_recognisable(run, tmp_path, monkeypatch):
    run(a=1)
    for i in range(5):
        (tmp_path / "a" / f"more{i}").write_text("")
    removed = []

    def unlink_one(path):
        if removed:
            raise Killed
        removed.append(path)
        original(path)

    original = type(tmp_path).unlink
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(tmp_path), "unlink", unlink_one)
        Steps(tmp_path)("a", 2, lambda folder: None)
    assert removed
    assert run(a=2) == ["a"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["a.txt", RECORD]


def test_temporary_files_of_a_killed_process_are_removed(run, tmp_path):
    run(a=1, fail="a")
    with pytest.raises(Killed), replacing(tmp_path / "a" / "weights.bin") as temporary:
        temporary.write_text("half")
        kept = temporary.rename(tmp_path / "a" / (temporary.name + "x"))
        raise Killed
    assert leftovers(tmp_path / "a") == [kept]
    assert run(a=1) == ["a"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["a.txt", RECORD]


def test_a_folder_with_nothing_but_an_unfinished_record_is_taken(run, tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(Killed), replacing(tmp_path / "a" / RECORD) as temporary:
        temporary.rename(tmp_path / "a" / (temporary.name + "x"))
        raise Killed
    assert run(a=1) == ["a"]


def test_the_seconds_of_steps_done_before_are_known(run, tmp_path):
    run(a=1, b=2)
    first = run.seconds
    assert set(first) == {"a", "b"}
    run(a=1, b=2)
    assert run.seconds == first
    assert json.loads((tmp_path / "a" / RECORD).read_text())["seconds"] == first["a"]


def test_small_results_are_written_and_read_as_json(tmp_path):
    write_json(tmp_path / "deep" / "kept.json", {"a": [1, 2]})
    assert read_json(tmp_path / "deep" / "kept.json") == {"a": [1, 2]}
