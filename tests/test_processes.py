"""Several processes train as one does, and end when one of them is lost."""

import json
import time
from pathlib import Path

import pytest
import torch
from together import ended, start

SCRIPT = Path(__file__).parent / "sparse_training.py"
STEPS = 30

pytestmark = pytest.mark.slow


def trained(folder, processes, *arguments):
    folder.mkdir()
    for status, _, errors in ended(start(processes, folder, SCRIPT, folder, STEPS, *arguments)):
        assert status == 0, errors
    held = [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(processes)]
    kept = [json.loads((folder / f"kept{r}.json").read_text()) for r in range(processes)]
    return held, kept


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    (held,), (kept,) = trained(tmp_path_factory.mktemp("alone") / "run", 1)
    return held, kept


def apart(held, other):
    """How far the weights of two trainings are apart, as a part of how far they have come."""
    begun = held["begun"]
    a, b = (plain(one["weights"]) for one in (held, other))
    assert a.keys() == b.keys() == begun.keys()
    floats = [name for name in begun if begun[name].is_floating_point()]
    apart, moved = (
        torch.stack([(a[n] - x[n]).square().sum() for n in floats]).sum().sqrt() for x in (b, begun)
    )
    assert moved > 0.1
    return float(apart / moved)


def plain(weights):
    """Weights by their own names, without those of masks."""
    return {
        name.replace(".parametrizations", "").replace(".original", ""): value
        for name, value in weights.items()
    }


def test_two_processes_train_as_one_of_the_same_batch(alone, tmp_path):
    held, kept = trained(tmp_path / "two", 2)
    # To the bit between the processes: weights, thresholds, multipliers, distillation.
    assert equal(held[0]["weights"], held[1]["weights"])
    assert held[0]["curves"] == held[1]["curves"]
    for mine, theirs in zip(held[0]["companions"], held[1]["companions"], strict=True):
        assert equal(mine, theirs)
    # Within rounding of one process; the channels that stay exactly.
    assert apart(held[0], alone[0]) < 0.01
    assert kept[0] == kept[1] == alone[1]


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_a_batch_in_parts_trains_as_the_whole(alone, tmp_path):
    (held,), (kept,) = trained(tmp_path / "parts", 1, 2)
    # The distillation's weights follow each part, not the mean of them.
    assert apart(held, alone[0]) < 0.1
    assert kept == alone[1]


@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_process_is_killed_the_other_ends_with_one_line(tmp_path, monkeypatch, lost):
    monkeypatch.setenv("KILLED_RANK", str(lost))
    monkeypatch.setenv("KILLED_STEP", "2")
    begun = time.monotonic()
    found = ended(start(2, tmp_path, SCRIPT, tmp_path, STEPS), seconds=120)
    assert time.monotonic() - begun < 120
    assert found[lost][0] == -9
    status, _, errors = found[1 - lost]
    assert status == 2
    (line,) = [text for text in errors.splitlines() if text.startswith("error")]
    assert "another process of this run is gone" in line
    assert "Traceback" not in errors


RECIPE = """\
codec: {name: dcvc, preset: tiny, lambda: 512}
data: {train: procedural, eval: procedural, crop: 64, batch: 2, workers: 0}
train:
  device: cpu
  precision: "no"
  phases: [{stage: joint, steps: 2}]
output: out
"""


def test_a_command_under_two_processes_writes_and_tells_once(tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE)
    (first, told, _), (second, silent, errors) = ended(
        start(2, tmp_path, "-m", "prune.train", "small.yaml")
    )
    assert (first, second) == (0, 0), errors
    assert told.splitlines()[-1] == "weights: out/weights.safetensors"
    assert silent == ""
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"weights.safetensors", "recipe.json", "state.pt", "log.jsonl"}


def test_a_batch_that_cannot_be_shared_out_is_one_line(tmp_path):
    (tmp_path / "small.yaml").write_text(RECIPE)
    found = ended(start(2, tmp_path, "-m", "prune.train", "small.yaml", "data.batch=3"))
    assert [status for status, _, _ in found] == [2, 2]
    (line,) = found[0][2].splitlines()
    assert "data.batch 3: 2 processes cannot share it out evenly" in line
    assert "make it a multiple of 2" in line
