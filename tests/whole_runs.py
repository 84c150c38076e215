"""Whole runs in processes of their own, that can be killed and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time

from prune.pipeline.steps import RECORD
from prune.training.saved_state import STATE

RECIPE = """\
codec: {name: dcvc, preset: tiny, lambda: 512}
data:
  train: procedural
  eval: {kind: procedural, clips: 1, frames: 2, seed: 1000, height: 64, width: 64}
  crop: 64
  batch: 1
  workers: 0
prune: {budget: 0.5, align: 1}
train:
  device: cpu
  checkpoint_seconds: 1.0e-6
  phases:
    - {stage: motion, steps: 6}
    - {stage: joint, steps: 6}
finetune:
  device: cpu
  checkpoint_seconds: 1.0e-6
  phases:
    - {stage: joint, steps: 6}
evaluate: {frames: 2, gop: 2, pictures: 1}
export: {height: 64, width: 64}
measure: {height: 64, width: 128, latency_height: 64, latency_width: 64, runs: 1, threads: 1}
output: out
"""
STEPS = 12
WEIGHTS = "weights.safetensors"
ALL = ["teacher", "onnx_dense", "sparse", "shrink", "finetune", "evaluate", "onnx", "measure"]


def start(folder, *arguments):
    """`python -m prune.run` in `folder`, with as many threads as every other one here."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", "prune.run", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process, timeout=900):
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def folder_with_recipe(folder, recipe=RECIPE):
    (folder / "small.yaml").write_text(recipe)
    return folder


def trained(folder):
    """The bytes of both trained checkpoints."""
    return [(folder / "out" / step / WEIGHTS).read_bytes() for step in ("sparse", "finetune")]


def killed_and_started_again(folder, seed):
    """A run killed after a random number of saves of its sparse training, then ended.

    What follows the training is not what this is about.
    """
    saves = random.Random(seed).randint(1, STEPS // 2)  # a busy machine may miss some
    process = start(folder, "small.yaml")
    wait_for_saves(process, folder / "out" / "sparse" / STATE, saves)
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    assert not json.loads((folder / "out" / "sparse" / RECORD).read_text())["done"]

    process = start(folder, "small.yaml")
    wait_until(process, lambda: is_done(folder / "out" / "finetune" / RECORD))
    process.kill()
    _, output, _ = finish(process)
    assert "teacher: done before" in output


def wait_for_saves(process, path, count):
    seen = set()

    def enough():
        if path.exists():
            seen.add(path.stat().st_mtime_ns)  # inodes come back
        return len(seen) >= count

    wait_until(process, enough)


def wait_until(process, condition):
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def is_done(record):
    return record.exists() and json.loads(record.read_text())["done"]
