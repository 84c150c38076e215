"""Whole runs killed at random moments, again and again, until they have got to their end.

    python benchmarks/faults.py
    python benchmarks/faults.py --kills 50 --json benchmarks/results/faults.json

A run of the tiny DCVC (sparse training, shrink, fine-tuning, evaluation, export, timing, report)
is done once undisturbed. Then runs are started, killed (SIGKILL) after a random time, and started
again in the same folder; half of the kills are aimed at a moment when a file is being written. What
a run leaves that got to its end has to be what the undisturbed one left, to the byte: weights, kept
channels, quality, and no temporary file. Kills are counted by the step that they hit. With `--json`
it goes on from there where it was stopped. The exit status is 1 where anything differed.

Runs are forked from one process that has everything imported: kills then hit work, not imports.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from whole_runs import ALL, RECIPE

from lvc.files import TEMPORARY, atomic_write
from prune.cli import main
from prune.run import command

COMPARED = (
    "teacher/weights.safetensors",
    "sparse/weights.safetensors",
    "sparse/kept.json",
    "shrink/weights.safetensors",
    "finetune/weights.safetensors",
    "evaluate/quality.json",
)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop, to go on later")
    parser.add_argument("--json", type=Path, help="where results are kept, and gone on from")
    return parser.parse_args()


def start(folder):
    """The run as a child of this process; its output goes to files in `folder`."""
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    for number, name in ((1, "output.txt"), (2, "errors.txt")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.argv = ["prune.run", "small.yaml"]
    status = 0
    try:
        main(command)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        status = 99
    finally:
        os._exit(status)


def new_folder(parent, name):
    folder = parent / name
    folder.mkdir()
    (folder / "small.yaml").write_text(RECIPE)
    return folder


def left(folder):
    """Hashes of what a run left, and its temporary files."""
    out = folder / "out"
    hashes = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        if (out / name).exists()
        else None
        for name in COMPARED
    }
    return hashes, sorted(path.name for path in out.rglob(f"*{TEMPORARY}*"))


def step_of(folder):
    """The step that a run in `folder` is at: the first that is not done."""
    for name in ALL:
        try:
            if not json.loads((folder / "out" / name / "step.json").read_text())["done"]:
                return name
        except (OSError, ValueError):
            return name
    return "report"


def is_writing(folder):
    return next((folder / "out").rglob(f"*{TEMPORARY}*"), None) is not None


def killed(folder, after, aimed):
    """Kill a run `after` seconds, `aimed` at the next write; None where it got to its end first."""
    child, begun = start(folder), time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return None, os.waitstatus_to_exitcode(status)
        writing = is_writing(folder) if aimed else False
        late = time.monotonic() - begun
        if late > after and (not aimed or writing or late > 2 * after):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return step_of(folder), is_writing(folder)
        time.sleep(0.0005 if aimed else 0.002)


def undisturbed(parent):
    folder, begun = new_folder(parent, "undisturbed"), time.monotonic()
    _, status = os.waitpid(start(folder), 0)
    if status:
        sys.exit(f"the undisturbed run failed: {(folder / 'errors.txt').read_text()}")
    hashes, temporary = left(folder)
    assert not temporary
    return hashes, time.monotonic() - begun


def study(arguments, found, save):
    """Kill and start again until there are as many kills as asked for."""
    deadline = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as parent:
        parent = Path(parent)
        expected, seconds = undisturbed(parent)
        found["seconds_undisturbed"] = round(seconds, 1)
        number = 0
        while found["kills"] < arguments.kills and time.monotonic() < deadline:
            number += 1
            folder = new_folder(parent, f"run{number}")
            kills = Counter()
            while True:
                dice = random.Random(f"{arguments.seed} {found['kills'] + sum(kills.values())}")
                enough = found["kills"] + sum(kills.values()) >= arguments.kills
                after = 1e9 if enough else dice.uniform(0, 0.7 * seconds)
                step, more = killed(folder, after, aimed=dice.random() < 0.5)
                if step is None:
                    break
                kills[step] += 1
                found["while_writing"] += bool(more)
            hashes, temporary = left(folder)
            ok = more == 0 and hashes == expected and not temporary
            found["runs"] += 1
            found["kills"] += sum(kills.values())
            found["by_step"] = dict(Counter(found["by_step"]) + kills)
            if not ok:
                errors = (folder / "errors.txt").read_text()[-2000:]
                differing = [name for name in expected if hashes[name] != expected[name]]
                found["unexpected"].append(
                    {"status": more, "differ": differing, "left": temporary, "errors": errors}
                )
            save(found)
            told = "equal" if ok else "NOT EQUAL"
            print(f"run {found['runs']}: {sum(kills.values())} kills, {told}", flush=True)
    return found


def study_command():
    arguments = parse()
    torch.set_num_threads(1)
    found = {"kills": 0, "runs": 0, "while_writing": 0, "by_step": {}, "unexpected": []}
    if arguments.json and arguments.json.exists():
        found = json.loads(arguments.json.read_text())

    def save(found):
        if arguments.json:
            atomic_write(arguments.json, json.dumps(found, indent=1) + "\n")

    study(arguments, found, save)
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["unexpected"] else 0)


if __name__ == "__main__":
    study_command()
