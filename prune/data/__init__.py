"""Clips to train on and to measure with: one interface to videos, images and synthetic motion."""

from prune.data.arrays import ArrayClips
from prune.data.procedural import Procedural, render
from prune.data.source import ClipError, ClipInfo, Source, check_sources
from prune.data.spec import SourceSpec, open_source
from prune.data.training import TrainingClips, batches

__all__ = [
    "ArrayClips",
    "ClipError",
    "ClipInfo",
    "Procedural",
    "Source",
    "SourceSpec",
    "TrainingClips",
    "batches",
    "check_sources",
    "open_source",
    "render",
]
