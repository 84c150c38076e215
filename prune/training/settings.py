"""What a training is told beside its phases."""

from dataclasses import dataclass

import torch

from prune.training.precision import Precision
from prune.training.tradeoff import Tradeoff
from vcodecs.intra import IntraCodec

STATE = "state.pt"
"""What training goes on from; of no use, and removed, once its step is done."""


def device_of(setting: str) -> str:
    """Where `device: auto` or `cpu` puts a codec: on the GPU where there is one and it may."""
    return "cuda" if setting == "auto" and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TrainerSettings:
    """What all phases share."""

    tradeoff: Tradeoff
    seed: int = 0
    clip_norm: float = 1.0
    intra: IntraCodec | None = None
    """Codes the first frame of every clip; without one it gets noise."""
    intra_noise: float = 0.0
    workers: int = 1
    precision: Precision = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    average: float | None = None
    """Decay of the averaged weights, which are what the training leaves; None: the last ones."""
    validate_every: int | None = None
    """Steps between two scores on held-back clips."""
    capture: bool = True
    """Record steps as CUDA graphs, on a single GPU and where nothing trains along."""
    minutes: float | None = None
    """A time box: all phases that are left are over after so long."""
