"""A sparse training of a few steps, as every process of it runs it: FOLDER STEPS [ACCUMULATE]."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from training import JOINT, MOTION, SETTINGS, Recorder

import vcodecs
from prune.cli import main
from prune.data import open_source
from prune.groups.find import find_groups
from prune.pipeline.compress import train_sparse
from prune.recipe.schema import DistillSection, PruneSection
from prune.sparsify.cost import CostModel
from prune.training.phases import Phase
from prune.training.processes import join
from prune.training.trainer import Trainer

BATCH = 2


class KilledHere(Recorder):
    """Ends the process of rank KILLED_RANK within step KILLED_STEP."""

    def loss(self):
        mine = os.environ.get("RANK", "0") == os.environ.get("KILLED_RANK")
        if mine and self.steps == int(os.environ["KILLED_STEP"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0


def train(folder: Path, steps: int, **changes) -> None:
    """Leaves the weights, the channels kept and what each process holds at the end in `folder`."""
    from dataclasses import replace

    processes = join("cpu")
    torch.manual_seed(1)
    codec = vcodecs.create("dcvc", "tiny").eval()
    channels = find_groups(codec)
    cost = CostModel(codec, channels, 64, 64)
    stages = {stage.name: stage for stage in codec.stages()}
    phases = [
        Phase(f"{i} {name}", stages[name], steps // 2, 1e-4, batch=BATCH, crop=64)
        for i, name in enumerate((MOTION, JOINT))
    ]
    settings = replace(SETTINGS, precision="no", checkpoint_seconds=1e6, average=0.9, **changes)
    held = {"begun": {name: value.clone() for name, value in codec.state_dict().items()}}

    def run(student, companions):
        trainer = Trainer(
            student, phases, [(open_source("procedural"), 1.0)], settings, folder,
            [*companions, KilledHere()],
        )  # fmt: skip
        curves = [curve.as_dict() for curve in trainer.run()]
        states = [companion.state_dict() for companion in companions]
        held.update(companions=states, weights=trainer.codec.state_dict(), curves=curves)
        return trainer.codec, curves

    distill = DistillSection(source="local")
    # At this budget no channel is within rounding of the threshold: one that is would fall either
    # way, and many cheap ones with it.
    prune = PruneSection(budget=0.6, align=1, threshold_rate=0.2)
    _, kept, _ = train_sparse(codec, channels, cost, prune, distill, steps, "cpu", run)
    torch.save(held, folder / f"rank{processes.rank}.pt")
    (folder / f"kept{processes.rank}.json").write_text(json.dumps(kept))
    processes.leave()


def command() -> None:
    folder, steps, *rest = sys.argv[1:]
    train(Path(folder), int(steps), **({"accumulate": int(rest[0])} if rest else {}))


if __name__ == "__main__":
    main(command)
