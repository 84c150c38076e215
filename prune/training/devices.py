"""Devices and arithmetic of a training, by way of Accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from prune.training.precision import resolved, tensor_cores
from prune.training.settings import TrainerSettings, device_of
from vcodecs import UserError


def make_accelerator(settings: TrainerSettings) -> Accelerator:
    """Accelerate's view of devices and processes."""
    # It keeps the settings of the first training in a process and refuses those of the second.
    AcceleratorState._reset_state(reset_partial_state=True)
    device = torch.device(device_of(settings.device))
    precision = resolved(settings.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision: fp16 needs a GPU; processors train in bf16")
    mixed = precision if precision in ("bf16", "fp16") else "no"
    return Accelerator(cpu=settings.device == "cpu", mixed_precision=mixed)


def make_scaler(accelerator: Accelerator) -> torch.amp.GradScaler:
    """Keeps gradients in float16's range; does nothing in any other arithmetic."""
    half = accelerator.mixed_precision == "fp16"
    # Codecs' losses are in the hundreds: from torch's own 2^16 the first steps would all be lost.
    return torch.amp.GradScaler(accelerator.device.type, init_scale=2.0**8, enabled=half)


@contextmanager
def arithmetic(settings: TrainerSettings) -> Iterator[None]:
    """Sets what torch keeps for the whole process."""
    fast = tensor_cores(settings.precision)
    torch.set_flush_denormal(True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
