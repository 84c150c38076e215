"""leanvc: compresses the decoders of learned video codecs.

A roof over its packages: `prune` (compression, step by step), `vcodecs` (codecs), `distill`
(teacher and student) and `lvc` (bits and playing). `leanvc COMMAND …` is `python -m prune.COMMAND`
for run, sweep, plan, train, export, compare and prepare, and `python -m vcodecs COMMAND` for
encode, decode and info.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("leanvc")

_STEPS = ("run", "sweep", "plan", "sparsify", "shrink", "finetune", "export", "compare")
_CODECS = ("create", "register", "save", "VideoCodec", "UserError")

__all__ = ["__version__", *_STEPS, *_CODECS]


def __getattr__(name: str) -> Any:
    if name in _STEPS:
        return getattr(import_module("prune"), name)
    if name in _CODECS:
        return getattr(import_module("vcodecs"), name)
    raise AttributeError(f"module 'leanvc' has no attribute {name!r}")
