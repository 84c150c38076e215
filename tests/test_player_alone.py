"""The player by itself, in an environment without torch, plays what torch coded."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from playing import assert_same_video, decode, make_coded

import lvc

pytestmark = [pytest.mark.player, pytest.mark.slow]

PLAYER = Path(lvc.__file__).parent
ROOT = PLAYER.parent
MODULES = sorted(PLAYER.glob("*.py"))
LISTING = """
import importlib.metadata, json
print(json.dumps([str(file) for file in importlib.metadata.files("leanvc-player")]))
"""


def table(path):
    return tomllib.loads(path.read_text(encoding="utf-8"))


ALONE, WHOLE = table(PLAYER / "pyproject.toml"), table(ROOT / "pyproject.toml")


def bounds(project, extra=None):
    """Versions by distribution. onnxruntime-gpu is onnxruntime, for a machine that has a GPU."""
    said = project["project"]
    needed = map(
        Requirement, said["optional-dependencies"][extra] if extra else said["dependencies"]
    )
    return {r.name.removesuffix("-gpu"): str(r.specifier) for r in needed}


# ---------------------------------------------------------------------- what it says


@pytest.mark.parametrize("key", ["version", "requires-python", "license"])
def test_the_player_says_the_same_as_the_whole(key):
    assert ALONE["project"][key] == WHOLE["project"][key]
    assert ALONE["build-system"] == WHOLE["build-system"]
    assert (PLAYER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_player_asks_for_the_versions_that_the_whole_asks_for():
    assert bounds(ALONE).items() <= bounds(WHOLE).items()
    assert bounds(ALONE, "openvino") == bounds(WHOLE, "openvino")


def test_the_player_needs_what_it_imports_and_nothing_else():
    imported = {name for path in MODULES for name in imports(path)}
    others = imported - sys.stdlib_module_names
    needed = bounds(ALONE).keys() | bounds(ALONE, "openvino").keys()
    assert {name.replace("_", "-") for name in others} == needed


def imports(path):
    """Top-level names of all imports, those inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # By its own name it could not be installed by another one.
            own = node.level == 1
            assert own or node.module.partition(".")[0] != "lvc", f"{path}: imports itself by name"
            if not own:
                yield node.module.partition(".")[0]


# ---------------------------------------------------------------------- alone


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The player in an environment of its own: `python`, `place` (no checkout is in reach)."""
    place = tmp_path_factory.mktemp("alone")
    litter = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(PLAYER, place / "lvc-source", ignore=litter)
    run(place, sys.executable, "-m", "venv", "venv")
    python = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]

    # What others have to deliver: where they cannot, that says nothing about the player.
    foreign = [*ALONE["build-system"]["requires"], *ALONE["project"]["dependencies"]]
    probe = [*pip, "install", "--dry-run", "--no-deps", "--retries", "1", *foreign]
    asked = run(place, *probe, check=False)
    if asked.returncode:
        pytest.skip(f"no package index has the player's dependencies: {asked.stderr[-500:]}")
    run(place, *pip, "install", "-q", "./lvc-source")
    shutil.rmtree(place / "lvc-source")
    return SimpleNamespace(python=python, place=place)


def run(place, *command, check=True):
    """Run a command in a folder, with nothing of this process's Python in reach."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=place, env=kept, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", ["torch", "compressai", "vcodecs", "prune", "distill"])
def test_alone_means_without(alone, name):
    done = run(alone.place, alone.python, "-c", f"import {name}", check=False)
    assert f"No module named '{name}'" in done.stderr


def test_the_distribution_holds_every_module_its_mark_of_types_and_nothing_else(alone):
    listed = json.loads(run(alone.place, alone.python, "-c", LISTING).stdout)
    held = {Path(name) for name in listed if "dist-info" not in name and "__pycache__" not in name}
    modules = {path for path in held if ".." not in path.parts}
    files = [*MODULES, PLAYER / "py.typed"]
    assert modules == {Path("leanvc_player") / path.name for path in files}
    assert [path.stem for path in held - modules] == ["lvc"]  # the command


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    return make_coded(tmp_path_factory.mktemp("coded"), "fvc")


def test_alone_it_plays_what_torch_coded(alone, coded, tmp_path):
    """That symbols are equal is checked by the player itself, packet by packet."""
    file, weights = coded / "fvc.lvc", coded / "fvc.safetensors"
    assert decode(coded, "fvc", tmp_path / "torch.mkv", "--weights", weights) == 0
    command = [alone.python, "-m", "leanvc_player", "decode", file, tmp_path / "player.mkv"]
    run(alone.place, *command, "--bundle", coded / "fvc")
    assert_same_video(tmp_path / "torch.mkv", tmp_path / "player.mkv")


def test_alone_it_tells_what_a_file_holds(alone, coded):
    by_module = run(alone.place, alone.python, "-m", "leanvc_player", "info", coded / "fvc.lvc")
    by_command = run(alone.place, alone.python.with_name("lvc"), "info", coded / "fvc.lvc")
    assert "fvc tiny" in by_module.stdout
    assert by_command.stdout == by_module.stdout
