"""What goes wrong around a training is one line, and what was saved before stays whole."""

import math
import os
import signal
import tempfile

import numpy as np
import pytest
import torch
from training import JOINT, MOTION, Killed, Recorder, make, same, weights

from lvc.files import atomic_write
from prune.cli import LOST_WORKER, explanation
from prune.data import ArrayClips
from prune.data.source import ClipError
from prune.training.saved_state import STATE
from vcodecs import UserError

# ---------------------------------------------------------------------- losses of no numbers


class NaNs(Recorder):
    """The loss of these steps is no number."""

    def __init__(self, *steps):
        super().__init__()
        self.bad = steps

    def loss(self):
        return torch.tensor(math.nan) if self.steps in self.bad else 0.0


def test_single_steps_without_a_finite_loss_are_left_out_and_counted(tmp_path):
    trainer = make(tmp_path, NaNs(1, 3, 4), phases=[(MOTION, 6)])
    trainer.run()
    assert trainer.skipped == 3
    assert torch.load(tmp_path / STATE, weights_only=True)["skipped"] == 3
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())


@pytest.mark.parametrize("skips", [2, 4])
def test_so_many_in_a_row_end_the_run_with_stage_step_and_what_to_change(tmp_path, skips):
    trainer = make(tmp_path, NaNs(*range(2, 9)), phases=[(MOTION, 9)], skips=skips)
    with pytest.raises(UserError) as caught:
        trainer.run()
    assert "step 2 of stage 0 motion" in str(caught.value)
    assert "learning rate (0.001), or train.clip_norm (1)" in str(caught.value)
    assert trainer.skipped == skips


def test_steps_in_a_row_are_counted_across_a_kill(tmp_path):
    with pytest.raises(Killed):
        make(tmp_path, NaNsThenKilled(), phases=[(MOTION, 9)]).run()
    with pytest.raises(UserError, match="step 1 of stage"):
        make(tmp_path, NaNs(*range(9)), phases=[(MOTION, 9)]).run()


class NaNsThenKilled(NaNs):
    def __init__(self):
        super().__init__(1, 2, 3)

    def end_step(self):
        super().end_step()
        if self.steps == 4:
            raise Killed

    def begin_step(self, stage, progress):
        super().begin_step(stage, progress)
        if self.steps == 3:
            raise Killed


# ---------------------------------------------------------------------- disks


@pytest.fixture
def full_disk(monkeypatch):
    """A limit on the size of files: as writes to a full disk, they fail on the way."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_ends_a_training_in_one_line_and_keeps_the_state_before(
    tmp_path, request, monkeypatch
):
    whole = make(tmp_path / "whole", phases=[(JOINT, 3)])
    whole.run()

    class Fills(Recorder):
        def end_step(self):
            super().end_step()
            if self.steps == 2:
                request.getfixturevalue("full_disk")

    with pytest.raises(UserError, match=r"state\.pt: cannot be written \(\d+ MiB are free there\)"):
        make(tmp_path, Fills(), phases=[(JOINT, 3)]).run()
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 1
    again = make(tmp_path, Recorder(), phases=[(JOINT, 3)])
    again.run()
    assert same(weights(again), weights(whole))


def test_a_write_to_a_full_disk_names_its_file(tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    make_temporary = tempfile.mkstemp

    def full(dir, prefix, suffix):
        handle, name = make_temporary(dir=dir, prefix=prefix, suffix=suffix)
        os.unlink(name)
        os.symlink("/dev/full", name)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", full)
    path = tmp_path / "small.json"
    with pytest.raises(OSError) as caught:
        atomic_write(path, "text")
    assert explanation(caught.value) == [f"{path}: No space left on device"]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- data


class Vanishing(ArrayClips):
    """Clips of which all but the first are gone after some reads."""

    def __init__(self, clips, reads):
        super().__init__(clips)
        self.left = reads

    def read(self, index, start=0, count=None):
        self.left -= 1
        if self.left < 0 and index:
            raise ClipError(f"clip {index}", "cannot be read (No such file or directory)")
        return super().read(index, start, count)


def clips(count):
    return list(np.random.default_rng(0).integers(0, 256, (count, 7, 3, 64, 64), np.uint8))


def test_a_data_set_that_loses_clips_midway_goes_on_with_what_is_left(tmp_path):
    trainer = make(tmp_path, phases=[(MOTION, 6)])
    trainer.sources = [(Vanishing(clips(4), reads=2), 1.0)]
    with pytest.warns(UserWarning, match=r"left out of training: clip \d: cannot be read"):
        trainer.run()
    assert torch.load(tmp_path / STATE, weights_only=True)["phase"] == 1


class Gone(Vanishing):
    def read(self, index, start=0, count=None):
        raise ClipError(f"clip {index}", "cannot be read")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_loses_everything_ends_the_training_in_one_line(tmp_path, workers):
    trainer = make(tmp_path, phases=[(MOTION, 6)], workers=workers)
    trainer.sources = [(Gone(clips(2), reads=0), 1.0)]
    with pytest.raises(UserError, match=r"50 training clips in a row could not be read; the last"):
        trainer.run()


class KillsItself(Vanishing):
    """A worker process that reads a clip is killed."""

    def __init__(self, clips):
        super().__init__(clips, 0)
        self.owner = os.getpid()

    def read(self, index, start=0, count=None):
        if os.getpid() != self.owner:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index, start, count)


def test_a_killed_worker_is_one_line_that_says_what_to_change(tmp_path):
    trainer = make(tmp_path, phases=[(MOTION, 6)], workers=1)
    trainer.sources = [(KillsItself(clips(2)), 1.0)]
    with pytest.raises(RuntimeError) as caught:
        trainer.run()
    assert explanation(caught.value) == [LOST_WORKER]


def test_what_was_saved_stays_when_a_folder_can_no_longer_be_written(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        make(tmp_path, Recorder(last=2), phases=[(MOTION, 3)]).run()
    before = (tmp_path / STATE).read_bytes()

    def refused(*_, **__):
        raise OSError(30, "Read-only file system", str(tmp_path / STATE))

    monkeypatch.setattr("lvc.files.tempfile.mkstemp", refused)
    with pytest.raises(OSError) as caught:
        make(tmp_path, Recorder(), phases=[(MOTION, 3)]).run()
    assert explanation(caught.value) == [f"{tmp_path / STATE}: Read-only file system"]
    assert (tmp_path / STATE).read_bytes() == before
