"""Signals end a training saved, with a status that says so; one run works in a folder at a time."""

import os
import signal
import threading

import pytest
from training import JOINT, Recorder, make, same, weights

from prune.interruption import Interrupted, noted_signals, raised_signals
from prune.ownership import LOCK, owned
from prune.training.saved_state import STATE
from vcodecs import UserError

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture(autouse=True)
def _in_the_foreground():
    """A shell's background jobs ignore Ctrl-C, and so would these tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signalled(Recorder):
    """Gets a signal in the midst of its second step."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def loss(self):
        if self.steps == 1:
            os.kill(os.getpid(), self.number)
        return super().loss()


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_a_training_behind_its_step_and_saved(tmp_path, number, status):
    whole = make(tmp_path / "whole", phases=[(JOINT, 3)])
    whole.run()
    trainer = make(tmp_path, Signalled(number), phases=[(JOINT, 3)], checkpoint_seconds=1e6)
    with raised_signals(), pytest.raises(Interrupted, match="saved behind step 2 of 3") as caught:
        trainer.run()
    assert caught.value.status == status
    assert (tmp_path / STATE).exists()
    again = make(tmp_path, Recorder(), phases=[(JOINT, 3)])
    again.run()
    assert again.companions[0].steps == 3
    assert same(weights(again), weights(whole))


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_the_exit_status_and_one_line_say_what_the_signal_was(tmp_path, call, number, status):
    given, _, errors = call(tmp_path, lambda: os.kill(os.getpid(), number))
    assert given == status
    assert errors == "stopped the same command goes on from here\n"


def test_a_second_signal_ends_the_work_at_once():
    with pytest.raises(Interrupted), noted_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_are_as_before_afterwards_and_untouched_in_other_threads():
    before = [signal.getsignal(number) for number, _ in SIGNALS]

    def elsewhere():
        with raised_signals(), noted_signals() as asked:
            assert asked.number == 0

    with raised_signals(), noted_signals():
        pass
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


# ---------------------------------------------------------------------- whose folder it is


def test_the_second_run_in_a_folder_says_so_and_the_next_one_may(tmp_path):
    folder = tmp_path / "out"
    with owned(folder):
        with pytest.raises(UserError, match=r"out: another run is at work in it"), owned(folder):
            pass
        assert (folder / LOCK).exists()
    assert not (folder / LOCK).exists()
    with owned(folder):
        pass


def test_a_killed_run_leaves_a_folder_that_is_free(tmp_path):
    child = os.fork()
    if child == 0:
        with owned(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / LOCK).exists()
    with owned(tmp_path):
        pass
