"""What a person sees while training runs."""

import io

import pytest
from rich.console import Console

from prune import progress
from prune.progress import Progress, describe, notice, warn


@pytest.fixture
def screen(monkeypatch):
    """A console of our own in place of the real one: `screen(terminal)` gives its text."""

    def make(terminal):
        text = io.StringIO()
        shown = Console(
            file=text,
            force_terminal=terminal,
            width=120,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            _environ={},
        )
        monkeypatch.setattr(progress, "console", shown)
        monkeypatch.setattr(progress, "notices", shown)
        return text

    return make


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_without_a_terminal_there_is_a_line_a_minute_and_at_the_end(screen, clock):
    text = screen(False)
    with Progress("train", total=100) as bar:
        for done in range(1, 101):
            clock.now += 4
            bar.show("1 motion", done, {"loss": 1.0})
    lines = text.getvalue().splitlines()
    assert [line.split()[3] for line in lines] == [
        f"{n}/100" for n in (15, 30, 45, 60, 75, 90, 100)
    ]


def test_a_line_tells_what_is_left_by_the_pace_of_this_process(screen, clock):
    text = screen(False)
    with Progress("train", total=100, done=50) as bar:
        clock.now += 60
        bar.show("2 joint", 60, {"loss": 0.5, "bpp": 0.1, "psnr": 31.234})
    assert (
        text.getvalue() == "train: 2 joint 60/100  loss 0.500  bpp 0.100  PSNR 31.23  4:00 left\n"
    )


def test_long_times_have_hours(screen, clock):
    text = screen(False)
    with Progress("train", total=1001) as bar:
        clock.now += 60
        bar.show("1 motion", 1, {})
    assert text.getvalue().rstrip().endswith("16:40:00 left")


def test_on_a_terminal_there_is_a_bar_with_the_last_figures(screen):
    text = screen(True)
    with Progress("train", total=4, done=1) as bar:
        bar.show("1 motion", 2, {"loss": 3.0})
        bar.show("1 motion", 4, {"loss": 2.5, "keep": 0.4, "budget": 0.35})
    shown = text.getvalue()
    assert "train: 1 motion" in shown
    assert "4/4" in shown
    assert "loss 2.500  keep 0.40/0.35" in shown


def test_the_bar_is_gone_from_the_terminal_when_training_fails(screen):
    screen(True)
    bar = Progress("train", total=4)
    with pytest.raises(ZeroDivisionError), bar:
        raise ZeroDivisionError
    assert not bar.bar.live.is_started


def test_figures_that_are_not_there_are_not_shown():
    assert describe({}) == ""
    assert describe({"beta": 0.5, "other": 3}) == "beta 0.50"


def test_names_are_shown_as_they_are_whatever_they_hold(screen):
    text = screen(False)
    warn("clip [/red][bold]a.mp4:smile: left out")
    with Progress("[train]", total=1) as bar:
        bar.show("[1] motion", 1, {})
    first, second = text.getvalue().splitlines()
    assert first == "warning clip [/red][bold]a.mp4:smile: left out"
    assert second.startswith("[train]: [1] motion 1/1")


def test_brackets_in_a_title_do_no_harm_on_a_terminal(screen):
    text = screen(True)
    with Progress("[/x]", total=1) as bar:
        bar.show("[/y]", 1, {})
    assert "[/x]: [/y]" in text.getvalue()


def test_a_notice_is_one_line_however_long_and_whatever_it_holds(screen):
    text = screen(False)
    notice("error", "a\nb " + "c" * 300 + " \udcff", "red")
    assert text.getvalue() == "error a b " + "c" * 300 + " \\udcff\n"


def test_a_quiet_command_tells_warnings_alone(screen, capsys):
    text = screen(False)
    progress.be_quiet()
    progress.console.print("weights: out")
    assert text.getvalue() == ""
