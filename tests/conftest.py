"""What all tests share."""

import os
import sys
import warnings

# The tests' networks are tiny: more threads than one only wait for each other, most of all beside
# a second test process. Set before torch is there, and inherited by runs in processes of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from whole_runs import finish, folder_with_recipe, start

from prune.cli import main

warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """`-n auto`: a process a core, but no more than their memory of half a gigabyte each allows."""
    return min(os.cpu_count() or 1, 8)


@pytest.fixture(autouse=True)
def _steady():
    """The same random numbers and arithmetic in every test, whatever ran before."""
    torch.set_flush_denormal(False)
    torch.manual_seed(0)


@pytest.fixture
def call(monkeypatch, capsys):
    """A command line without a process of its own: (exit status, output, errors)."""

    def answer(folder, command, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        status = 0
        try:
            main(command)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return answer


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of a run that nothing happened to, and what it printed."""
    folder = folder_with_recipe(tmp_path_factory.mktemp("undisturbed"))
    status, output, errors = finish(start(folder, "small.yaml"))
    assert status == 0, errors
    return folder, output, errors
