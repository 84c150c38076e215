"""Which arithmetic a training's networks run in."""

from functools import cache
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "no", "bf16", "fp16", "tf32", "fp32"]
"""`auto`: bfloat16 where the device has instructions for it, else float32 (`no`).

`no` and `tf32` are float32, with products in TF32 on GPUs that have it; `fp32` is float32 with
exact products. `fp16` comes with a scale of the loss that follows its range.
"""

FAST_FLAGS = frozenset(("amx_bf16", "avx512_bf16"))
"""Flags of a processor that multiplies in bfloat16. Others convert to float32 and back: slower."""


def resolved(
    precision: Precision, device: torch.device
) -> Literal["no", "bf16", "fp16", "tf32", "fp32"]:
    """The meaning of `precision` on `device`.

    By what the device says of itself rather than by a measurement, so that the same machine
    always trains the same way.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "no"
    return "bf16" if FAST_FLAGS & _cpu_flags() else "no"


def tensor_cores(precision: Precision) -> bool:
    """Whether float32 products may be taken in TF32, where a GPU has it."""
    return precision != "fp32"


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
