"""Files are whole or absent, whatever happens while they are written."""

import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc.files import atomic_write, leftovers, replacing


class Crash(BaseException):
    """Stands for anything that can end a write: an error, Ctrl-C."""


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.one_of(st.binary(), st.text()))
def test_what_is_written_is_what_is_read(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "file"
    atomic_write(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)


def test_folders_that_are_missing_are_made(tmp_path):
    atomic_write(tmp_path / "a" / "b" / "file.txt", "text")
    assert (tmp_path / "a" / "b" / "file.txt").read_text() == "text"


def test_a_path_may_be_a_string(tmp_path):
    atomic_write(str(tmp_path / "file.txt"), b"data")
    assert (tmp_path / "file.txt").read_bytes() == b"data"


def test_an_old_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.txt"
    atomic_write(path, "long old text")
    atomic_write(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_write_ends_readers_see_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_a_reader_that_has_opened_the_old_file_reads_it_to_its_end(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old text")
    with path.open() as reader:
        assert reader.read(3) == "old"
        atomic_write(path, "something else")
        assert reader.read() == " text"


@pytest.mark.parametrize("existing", [None, "old"])
def test_a_write_that_fails_changes_nothing_and_leaves_nothing(existing, tmp_path):
    path = tmp_path / "file.txt"
    if existing:
        path.write_text(existing)
    with pytest.raises(Crash), replacing(path) as temporary:
        temporary.write_text("half")
        raise Crash
    assert [p.read_text() for p in tmp_path.iterdir()] == ([existing] if existing else [])


def test_the_temporary_file_is_beside_the_real_one_hidden_and_of_its_kind(tmp_path):
    with replacing(tmp_path / "model.safetensors") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.suffix == ".safetensors"
        temporary.write_bytes(b"data")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_rights_of_any_other_new_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "file", b"data")
        assert os.umask(umask) == umask, "the mask itself is left as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_a_write_that_removes_its_own_temporary_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.unlink()
    assert path.read_text() == "old"


def test_what_a_killed_process_left_behind_can_be_found(tmp_path):
    atomic_write(tmp_path / "model.safetensors", b"whole")
    (tmp_path / ".hidden").write_text("not ours")
    with replacing(tmp_path / "model.safetensors") as temporary:
        temporary.write_bytes(b"half")
        assert leftovers(tmp_path) == [temporary]
    assert leftovers(tmp_path) == []
