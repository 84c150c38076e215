"""Settings of a training beside its phases."""

from dataclasses import dataclass
from pathlib import Path

import torch

from prune.training.precision import Precision
from prune.training.tradeoff import Tradeoff
from vcodecs.intra import IntraCodec


def device_of(setting: str) -> str:
    """Where `device: auto` or `cpu` puts a codec: on the GPU where there is one and it may."""
    return "cuda" if setting == "auto" and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TrainerSettings:
    """Settings that all phases share."""

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
    keep_checkpoints: int = 2
    """The newest so many states stay on disk: a damaged one falls back to the one before."""
    accumulate: int = 1
    """Parts that a batch goes through the codec in, one after the other."""
    recompute: bool = False
    """Keep no activations of a frame, and code it again on the way back: less memory, more time."""
    compile: bool = False
    """Compile the codec (`torch.compile`), where nothing trains along."""
    skips: int = 3
    """So many steps without a finite loss or gradient, one after the other, end the training."""
    average: float | None = None
    """Decay of the averaged weights, which are what the training leaves; None: the last ones."""
    validate_every: int | None = None
    """Steps between two scores on held-back clips."""
    capture: bool = True
    """Record steps as CUDA graphs, on a single GPU and where nothing trains along."""
    tensorboard: Path | None = None
    """Folder of what TensorBoard shows; None: nothing is written for it."""
    minutes: float | None = None
    """A time box: all phases that are left are over after so long."""
