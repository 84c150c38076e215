"""Trainings of a few steps for tests, and companions that look on or end them."""

from dataclasses import replace

import torch

import vcodecs
from prune.data import open_source
from prune.training.tradeoff import Tradeoff
from prune.training.trainer import Phase, Trainer, TrainerSettings

SETTINGS = TrainerSettings(
    tradeoff=Tradeoff((None,), (512,)),
    intra_noise=0.05,
    workers=0,
    device="cpu",
    checkpoint_seconds=0,
)
# The noise on the first reference makes every stage depend on the random numbers of its steps.
MOTION, JOINT = "motion", "joint"


class Killed(BaseException):
    """Stands for the process's end."""


class Recorder:
    """A companion that notes what is called, and can end the process after `last` steps."""

    def __init__(self, name="recorder", last=None, term=0.0):
        self.name, self.last, self.term = name, last, term
        self.calls, self.steps = [], 0

    def parameter_groups(self):
        return []

    def begin_step(self, stage, progress):
        self.calls.append((self.name, "begin", stage.name, progress))

    def loss(self):
        self.calls.append((self.name, "loss"))
        return self.term(self.steps) if callable(self.term) else self.term

    def end_step(self):
        self.calls.append((self.name, "end"))
        self.steps += 1
        if self.steps == self.last:
            raise Killed

    def figures(self):
        self.calls.append((self.name, "figures"))
        return {self.name: float(self.steps)}

    def details(self):
        return {}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def make(folder, *companions, phases=((MOTION, 3), (JOINT, 3)), codec=None, **changes):
    """A trainer of the tiny DCVC with seeded weights. Phases are (stage, steps)."""
    if codec is None:
        torch.manual_seed(1)
        codec = vcodecs.create("dcvc", "tiny")
    stages = {stage.name: stage for stage in codec.stages()}
    planned = [
        phase
        if isinstance(phase, Phase)
        else Phase(f"{i} {phase[0]}", stages[phase[0]], phase[1], 1e-3, batch=1, crop=64)
        for i, phase in enumerate(phases)
    ]
    sources = [(open_source("procedural"), 1.0)]
    return Trainer(codec, planned, sources, replace(SETTINGS, **changes), folder, companions)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.codec.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
