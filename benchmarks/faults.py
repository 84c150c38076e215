"""Whole runs killed at random moments, again and again, until they have got to their end.

    python benchmarks/faults.py
    python benchmarks/faults.py --kills 50 --json benchmarks/results/faults_runs.json
    python benchmarks/faults.py --training --json benchmarks/results/faults_training.json

A run of the tiny DCVC (sparse training, shrink, fine-tuning, evaluation, export, timing, report)
is done once undisturbed. Then runs are started, killed (SIGKILL) at a random moment of the step
that they are at or of the one behind it, and started again in the same folder; half of the kills
wait for a moment when a file is being written. What a run leaves that got to its end has to be what
the undisturbed one left, to the byte: weights, kept channels, quality, and no temporary file. Kills
are counted by the step that they hit. Stopped and started again, it goes on in its folder. The exit
status is 1 where anything differed.

Runs are forked from one process that has everything imported: kills then hit work, not imports.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from training import JOINT, MOTION, make
from whole_runs import ALL, RECIPE, WEIGHTS

from lvc.files import TEMPORARY, atomic_write
from prune.cli import main
from prune.run import command
from prune.training.saved_state import STATE
from vcodecs import checkpoints

AIM = 5.0
"""Seconds that a kill waits at most for a file to be written."""
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
    parser.add_argument("--training", action="store_true", help="trainings instead of runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=60, help="latest second of a step")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop, to go on later")
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"), help="gone on in")
    parser.add_argument("--json", type=Path, help="where the result goes")
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


def start_training(folder):
    """A training of eight steps that saves after each, as a child of this process."""
    child = os.fork()
    if child:
        return child
    with open(folder / "errors.txt", "w") as errors:
        os.dup2(errors.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    status = 1
    try:
        trainer = make(folder, phases=[(MOTION, 4), (JOINT, 4)], average=0.9)
        trainer.run()
        checkpoints.save(trainer.codec, folder / WEIGHTS)
        status = 0
    finally:
        os._exit(status)


def study_training(arguments):
    """As `study`, of trainings alone: they take seconds, so many kills are soon counted."""
    found = {"kills": 0, "runs": 0, "while_writing": 0, "by_state": {}, "unexpected": []}
    whole = arguments.folder / "whole"
    shutil.rmtree(arguments.folder, ignore_errors=True)
    whole.mkdir(parents=True)
    begun = time.monotonic()
    os.waitpid(start_training(whole), 0)
    seconds, expected = time.monotonic() - begun, (whole / WEIGHTS).read_bytes()
    while found["kills"] < arguments.kills:
        folder = arguments.folder / f"run{found['runs']}"
        folder.mkdir()
        status = None
        while status is None:
            dice = random.Random(f"{arguments.seed} {found['kills']}")
            late = time.monotonic() + dice.uniform(0, 0.5 * seconds)
            child, aimed = start_training(folder), dice.random() < 0.5
            while status is None:
                ended, code = os.waitpid(child, os.WNOHANG)
                writing = any(folder.glob(f".*{TEMPORARY}*"))
                now = time.monotonic()
                if ended:
                    status = os.waitstatus_to_exitcode(code)
                elif now > late and (writing or not aimed or now > late + AIM):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    found["kills"] += 1
                    found["while_writing"] += any(folder.glob(f".*{TEMPORARY}*"))
                    lines = (folder / "log.jsonl").exists() and (folder / STATE).exists()
                    at = "with a state" if lines else "before the first state"
                    found["by_state"][at] = found["by_state"].get(at, 0) + 1
                    break
                time.sleep(0.0003)
        found["runs"] += 1
        equal = status == 0 and (folder / WEIGHTS).read_bytes() == expected
        if not equal:
            found["unexpected"].append({"status": status, "run": folder.name})
    return found


def new_folder(parent, name):
    folder = parent / name
    folder.mkdir()
    (folder / "small.yaml").write_text(RECIPE)
    return folder


def left(folder):
    """Hashes of what a run left, and its temporary files."""
    out = folder / "out"
    hashes = {name: hashed(out / name) for name in COMPARED}
    return hashes, sorted(path.name for path in out.rglob(f"*{TEMPORARY}*"))


def hashed(path):
    if not path.exists():
        return None
    content = path.read_bytes()
    if path.name == "quality.json":
        # x264's and x265's points, made anew with the whole step, came out otherwise: not ours.
        entries = json.loads(content)["entries"]
        kept = [{key: one[key] for key in one if key != "anchors"} for one in entries]
        content = json.dumps(kept).encode()
    return hashlib.sha256(content).hexdigest()


def step_of(folder):
    """The step that a run in `folder` is at: the first that is not done."""
    for name in ALL:
        try:
            if not json.loads((folder / "out" / name / "step.json").read_text())["done"]:
                return name
        except (OSError, ValueError):
            return name
    return "report"


def is_begun(folder, target):
    """Whether this start of a run is at `target`, or has come past it."""
    try:
        told = (folder / "output.txt").read_text().splitlines()
    except FileNotFoundError:  # the child is not there yet
        return False
    steps = [line for line in told if line in ALL]
    return bool(steps) and ALL.index(steps[-1]) >= ALL.index(target)


def is_writing(folder):
    return next((folder / "out").rglob(f"*{TEMPORARY}*"), None) is not None


def killed(folder, target, after, aimed):
    """Kill a run `after` seconds of step `target`, `aimed` at the next write behind that.

    Returns the step that was hit, and whether a file was being written; or None and the exit
    status where the run got to its end first.
    """
    child, begun = start(folder), None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return None, os.waitstatus_to_exitcode(status)
        if begun is None and is_begun(folder, target):
            begun = time.monotonic()
        late = time.monotonic() - begun if begun is not None else -1.0
        if late > after and (not aimed or is_writing(folder) or late > after + AIM):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return step_of(folder), is_writing(folder)
        time.sleep(0.0005 if begun is not None and aimed else 0.01)


def undisturbed(parent):
    folder = new_folder(parent, "undisturbed")
    _, status = os.waitpid(start(folder), 0)
    if status:
        sys.exit(f"the undisturbed run failed: {(folder / 'errors.txt').read_text()}")
    hashes, temporary = left(folder)
    assert not temporary
    report = json.loads((folder / "out" / "report.json").read_text())
    return hashes, {step: round(seconds, 2) for step, seconds in report["times"].items()}


def judged(folder, status, expected):
    """What is wrong with a run that got to its end; None where nothing is."""
    hashes, temporary = left(folder)
    differing = [name for name in expected if hashes[name] != expected[name]]
    if status == 0 and not differing and not temporary:
        return None
    errors = (folder / "errors.txt").read_text()[-2000:]
    return {"status": status, "differ": differing, "left": temporary, "errors": errors}


def study(arguments, found, save):
    """Kill and start again until there are as many kills as asked for, and the last run's end."""
    deadline = time.monotonic() + 60 * arguments.minutes
    parent = arguments.folder
    if "expected" not in found:
        shutil.rmtree(parent / "undisturbed", ignore_errors=True)
        found["expected"], found["seconds_by_step"] = undisturbed(parent)
        save(found)
    while found["at_work"] or found["kills"] < arguments.kills:
        folder = parent / f"run{found['runs'] + 1}"
        if not found["at_work"]:
            shutil.rmtree(folder, ignore_errors=True)
            new_folder(parent, folder.name)
            found["at_work"] = True
        dice = random.Random(f"{arguments.seed} {found['kills']}")
        enough = found["kills"] >= arguments.kills
        left_to_do = ALL[ALL.index(at) :] if (at := step_of(folder)) in ALL else ALL[-1:]
        target = dice.choice(left_to_do[:2])
        after = (
            1e9
            if enough
            else dice.uniform(0, min(arguments.most, found["seconds_by_step"][target]))
        )
        step, more = killed(folder, target, after, aimed=dice.random() < 0.5)
        if step is not None:
            found["kills"] += 1
            found["while_writing"] += more
            found["by_step"][step] = found["by_step"].get(step, 0) + 1
        else:
            found["runs"] += 1
            found["at_work"] = False
            wrong = judged(folder, more, found["expected"])
            found["unexpected"] += [wrong] if wrong else []
            print(f"run {found['runs']}: {'NOT EQUAL' if wrong else 'equal'}", flush=True)
        save(found)
        if time.monotonic() > deadline:
            break
    return found


def study_command():
    arguments = parse()
    torch.set_num_threads(1)
    if arguments.training:
        found = study_training(arguments)
        text = json.dumps(found, indent=1) + "\n"
        if arguments.json:
            atomic_write(arguments.json, text)
        print(text)
        sys.exit(1 if found["unexpected"] else 0)
    found = {"kills": 0, "runs": 0, "while_writing": 0, "by_step": {}, "unexpected": []}
    found["at_work"] = False
    arguments.folder.mkdir(parents=True, exist_ok=True)
    state = arguments.folder / "found.json"
    if state.exists():
        found = json.loads(state.read_text())
    study(arguments, found, lambda found: atomic_write(state, json.dumps(found)))
    shown = {key: found[key] for key in found if key not in ("expected", "at_work")}
    text = json.dumps(shown, indent=1) + "\n"
    if arguments.json and not found["at_work"]:
        atomic_write(arguments.json, text)
    print(text)
    sys.exit(1 if found["unexpected"] else 0)


if __name__ == "__main__":
    study_command()
