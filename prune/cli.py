"""The common part of the command lines."""

import argparse
import errno
import sys
import warnings
from collections.abc import Callable

import torch

from prune.interruption import Interrupted, raised_signals
from prune.progress import notice
from prune.training.processes import LOST, is_loss
from vcodecs import UserError

OUT_OF_MEMORY = (
    "not enough memory: lower data.batch, data.crop, the phases' frames or the frame sizes, or "
    "free some"
)

LOST_WORKER = (
    "a process that prepares training clips was killed, most likely for the memory it took: lower "
    "data.workers, data.batch or data.crop; the same command goes on from the last saved state"
)


def main(command: Callable[[], None]) -> None:
    """Run a command: what the user can put right is one line and exit status 2.

    Ctrl-C is 130, SIGTERM 143 (`prune.interruption`).
    """
    quiet_libraries()
    try:
        with raised_signals():
            command()
    except KeyboardInterrupt as end:
        saved = f"{end.saved}; " if isinstance(end, Interrupted) and end.saved else ""
        notice("stopped", f"{saved}the same command goes on from here", "yellow")
        sys.exit(end.status if isinstance(end, Interrupted) else 130)
    except Exception as error:
        lines = explanation(error)
        if lines is None:
            raise
        for line in lines:
            notice("error", line, "red")
        sys.exit(2)


def recipe_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Arguments of every command that carries out a recipe: the file, and overrides."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument(
        "recipe", help="a YAML file, or the name of a recipe that leanvc brings along, such as dcvc"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings, such as prune.budget=0.5"
    )
    return parser


def quiet_option(parser: argparse.ArgumentParser) -> None:
    """Let a command be told to say no more than what went wrong."""
    parser.add_argument("--quiet", action="store_true", help="tell warnings and errors alone")


def explanation(error: Exception) -> list[str] | None:
    """Lines for the user about what went wrong around us; None for a fault of ours."""
    if isinstance(error, UserError):
        return str(error).splitlines()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return [OUT_OF_MEMORY]
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return [OUT_OF_MEMORY]
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return [LOST_WORKER]
    if isinstance(error, RuntimeError) and is_loss(error):
        return [LOST]
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        return [f"{error.filename or 'the disk'}: {error.strerror}"]
    return None


def quiet_libraries() -> None:
    """Leave out other packages' notices to their own developers."""
    for module in ("torch", "torch_pruning", "compressai", "onnxscript", "pytorch_msssim"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
