"""Clips decoded once into a memory-mapped file."""

import json
import pickle

import numpy as np
import pytest

from prune.data import open_source
from prune.data.held_back import Some
from prune.data.packed import FRAMES, LIST, PackedClips, is_packed, pack
from prune.data.source import ClipError
from prune.data.training import TrainingClips
from prune.prepare import prepare
from vcodecs import UserError

SPEC = {"kind": "procedural", "clips": 3, "frames": 5, "height": 72, "width": 80}


@pytest.fixture
def source():
    from prune.data import SourceSpec

    return open_source(SourceSpec.model_validate(SPEC))


@pytest.fixture
def packed(source, tmp_path):
    return pack(source, tmp_path / "packed")[0]


def test_the_clips_are_those_of_the_source(source, packed):
    assert [packed.info(i) for i in range(3)] == [source.info(i) for i in range(3)]
    for i in range(3):
        assert np.array_equal(packed.read(i), source.read(i))
        assert np.array_equal(packed.read(i, 2, 2), source.read(i, 2, 2))
    assert packed.damaged() == []


def test_training_draws_the_same_samples_from_it(source, packed):
    listed = Some(source, range(3))
    drawn = [TrainingClips([(s, 1.0)], 3, 64, seed=5, length=6) for s in (listed, packed)]
    assert all((drawn[0][i] == drawn[1][i]).all() for i in range(6))


def test_several_processes_pack_the_same(source, packed, tmp_path):
    other, _ = pack(source, tmp_path / "other", processes=2)
    assert other.clips == packed.clips
    assert other.path.read_bytes() == packed.path.read_bytes()


def test_at_most_so_many_frames_of_each_clip(source, tmp_path):
    short, _ = pack(source, tmp_path / "short", most_frames=2)
    assert [clip.info.frames for clip in short.clips] == [2, 2, 2]
    assert np.array_equal(short.read(1), source.read(1, 0, 2))


def test_a_folder_of_packed_clips_is_known_as_one(packed, tmp_path):
    assert is_packed(tmp_path / "packed")
    assert isinstance(open_source(str(tmp_path / "packed")), PackedClips)


def test_worker_processes_map_the_file_themselves(packed):
    packed.read(0)
    assert len(pickle.dumps(packed)) < 5000
    assert np.array_equal(pickle.loads(pickle.dumps(packed)).read(2), packed.read(2))


def test_clips_that_cannot_be_read_are_left_out_with_the_reason(source, tmp_path):
    read = source.read

    def torn(index, *window):
        if index == 1:
            raise ClipError("clip 1", "torn")
        return read(index, *window)

    source.read = torn
    kept, skipped = pack(source, tmp_path / "packed")
    assert len(kept) == 2
    assert skipped == {"clip 1": "torn"}


def test_a_folder_that_was_not_finished_does_not_look_whole(source, tmp_path):
    def killed(done, *_):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "packed", progress=killed)
    assert not is_packed(tmp_path / "packed")
    # What the next call goes on from is no packed folder.
    with pytest.raises(UserError, match="no packed clips"):
        PackedClips(tmp_path / "packed")


def test_pixels_that_do_not_belong_to_the_list_are_a_user_error(packed, tmp_path):
    with open(packed.path, "ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="prepare it again"):
        PackedClips(tmp_path / "packed")


@pytest.mark.parametrize("content", ["", "{}", '{"format": "other"}', "[1]"])
def test_a_damaged_list_is_a_user_error(packed, tmp_path, content):
    (tmp_path / "packed" / LIST).write_text(content)
    with pytest.raises(UserError, match="packed"):
        PackedClips(tmp_path / "packed")


def test_damaged_pixels_are_found(packed):
    data = bytearray(packed.path.read_bytes())
    data[packed.clips[1].offset + 7] ^= 1
    packed.path.write_bytes(data)
    assert packed.damaged() == [packed.info(1).name]


def test_the_command_packs_anything_that_training_reads(tmp_path, capsys):
    clip = tmp_path / "clips" / "a"
    clip.mkdir(parents=True)
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (80, 72), (i, 2, 3)).save(clip / f"im{i}.png")
    prepare(str(tmp_path / "clips"), tmp_path / "packed", None, 1)
    assert open_source(str(tmp_path / "packed")).read(0)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert "1 clips, 3 frames" in capsys.readouterr().out
    listed = json.loads((tmp_path / "packed" / LIST).read_text())
    assert listed["bytes"] == (tmp_path / "packed" / FRAMES).stat().st_size


def test_the_command_leaves_other_folders_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="holds other files"):
        prepare("procedural", tmp_path / "mine", None, 1)


# ---------------------------------------------------------------------- stopped and started again


class Counted:
    """The source, which is stopped at its clip number `last` and counts what is read."""

    def __init__(self, source, last=None):
        self.source, self.last, self.reads = source, last, []
        self.name, self.skipped = source.name, source.skipped

    def __len__(self):
        return len(self.source)

    def info(self, index):
        return self.source.info(index)

    def read(self, index, *window):
        if index == self.last:
            raise KeyboardInterrupt
        self.reads.append(index)
        return self.source.read(index, *window)


@pytest.mark.parametrize("torn", [None, "frames", "list"])
def test_a_stopped_packing_goes_on_behind_the_last_whole_clip(source, packed, tmp_path, torn):
    folder = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        pack(Counted(source, last=2), folder)
    assert not is_packed(folder)
    if torn == "frames":  # a kill in the midst of a clip, or a disk that lost the last pages
        with open(folder / f".{FRAMES}.part", "r+b") as file:
            file.truncate(int(packed.clips[1].offset * 1.5))
    if torn == "list":
        text = (folder / f".{LIST}.part").read_text()
        (folder / f".{LIST}.part").write_text(text[:-20])
    rest = Counted(source)
    again, _ = pack(rest, folder)
    assert rest.reads == ([1, 2] if torn else [2])
    assert again.clips == packed.clips
    assert again.path.read_bytes() == packed.path.read_bytes()
    assert {path.name for path in folder.iterdir()} == {FRAMES, LIST}


def test_another_number_of_frames_begins_anew(source, packed, tmp_path):
    folder = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        pack(Counted(source, last=2), folder, most_frames=2)
    rest = Counted(source)
    again, _ = pack(rest, folder)
    assert rest.reads == [0, 1, 2]
    assert again.path.read_bytes() == packed.path.read_bytes()


def test_the_command_goes_on_in_a_folder_that_it_has_begun(source, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        pack(Counted(source, last=1), folder)
    monkeypatch.setattr("prune.prepare.open_source", lambda _: source)
    prepare("procedural", folder, None, 1)
    assert is_packed(folder)
