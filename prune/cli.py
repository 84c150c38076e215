"""What the command lines share."""

import sys
import warnings
from collections.abc import Callable

from prune.progress import console
from vcodecs import UserError


def main(command: Callable[[], None]) -> None:
    """Run a command: a UserError is one line and exit status 2, Ctrl-C status 130."""
    quiet_libraries()
    try:
        command()
    except UserError as error:
        for line in str(error).splitlines():
            console.print(f"[red]error[/red] {_escape(line)}", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        sys.exit(130)


def quiet_libraries() -> None:
    """Leave out other packages' notices to their own developers."""
    for module in ("torch", "torch_pruning", "compressai", "onnxscript", "pytorch_msssim"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
