"""States that a training goes on from: whole, the newest few, one back from a damaged one."""

import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training import JOINT, MOTION, Killed, Recorder, make, same, weights

import vcodecs
from lvc.files import leftovers
from prune.training.saved_state import STATE, SavedStates, state_files
from vcodecs import UserError


def names(folder):
    return sorted(path.name for path in state_files(folder))


def steps(folder):
    """What the states hold, the newest first."""
    files = sorted(names(folder), key=len)
    return [torch.load(folder / name, weights_only=True)["step"] for name in files]


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_the_newest_so_many_states_stay(tmp_path, kept):
    states = SavedStates(tmp_path, kept)
    for step in range(5):
        states.save({"step": step})
        assert steps(tmp_path) == [*range(step, max(-1, step - kept), -1)]
    assert leftovers(tmp_path) == []


def test_fewer_states_from_now_on_remove_the_oldest(tmp_path):
    for step in range(3):
        SavedStates(tmp_path, 3).save({"step": step})
    SavedStates(tmp_path, 1).save({"step": 3})
    assert steps(tmp_path) == [3]


def test_a_file_system_without_second_names_keeps_states_too(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refused)
    for step in range(3):
        SavedStates(tmp_path, 2).save({"step": step})
    assert steps(tmp_path) == [2, 1]


@pytest.fixture(scope="module")
def two_states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    for step in range(2):
        SavedStates(folder).save({"step": step, "weights": torch.arange(1000.0) + step})
    return folder


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cut=st.booleans(), part=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_state_cut_or_with_a_bit_flipped_is_never_read_as_another(two_states, cut, part, bit):
    whole = (two_states / STATE).read_bytes()
    content = bytearray(whole)
    at = int(part * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    try:
        (two_states / STATE).write_bytes(content)
        found = SavedStates(two_states).load(lambda state: None)
    finally:
        (two_states / STATE).write_bytes(whole)
    # Some bits of a zip file say nothing: then it is the state as it was.
    assert torch.equal(found["weights"], torch.arange(1000.0) + found["step"])


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half a zip"])
def test_a_damaged_newest_state_falls_back_to_the_one_before_with_a_warning(
    tmp_path, capsys, content
):
    whole = make(tmp_path / "whole", phases=[(JOINT, 4)])
    whole.run()
    with pytest.raises(Killed):
        make(tmp_path, Recorder(last=4), phases=[(JOINT, 4)]).run()
    (tmp_path / STATE).write_bytes(content)
    recorder = Recorder()
    again = make(tmp_path, recorder, phases=[(JOINT, 4)])
    again.run()
    assert f"{STATE}: damaged; training goes on from state.1.pt" in capsys.readouterr().err
    assert len([call for call in recorder.calls if call[1] == "end"]) == 2
    assert same(weights(again), weights(whole))


def test_damaged_states_alone_are_a_user_error(tmp_path):
    (tmp_path / STATE).write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"state\.pt: damaged, and no whole state .*; remove it"):
        make(tmp_path).run()


def test_the_state_of_another_codec_is_a_user_error(tmp_path):
    make(tmp_path, phases=[(MOTION, 1)], codec=vcodecs.create("dcvc", "small")).run()
    with pytest.raises(UserError, match=r"state\.pt: the state of another training"):
        make(tmp_path).run()


def test_a_kill_between_two_renames_leaves_a_state(tmp_path):
    for step in range(2):
        SavedStates(tmp_path).save({"step": step})
    # As where second names are not possible: the newest has lost its name, the next has none yet.
    shutil.move(tmp_path / STATE, tmp_path / "state.1.pt")
    assert SavedStates(tmp_path).load(lambda state: None)["step"] == 1
