"""`leanvc COMMAND …`, one word for all commands."""

import sys
from importlib import import_module

from leanvc import __version__

RECIPES = ("run", "sweep", "plan", "train", "export", "prepare")
FILES = ("encode", "decode", "info")
USAGE = f"""\
usage: leanvc COMMAND …      (leanvc COMMAND --help tells more)

  run RECIPE            compress a codec's decoder and report what that brought
  sweep RECIPE k=v,v …  a run at every combination of settings, and one report
  plan RECIPE           show what a budget would remove, without training
  train RECIPE          train a dense codec
  prepare SOURCE OUT    decode training clips once
  export WEIGHTS OUT    write a decoder as ONNX graphs
  compare RUN …         runs side by side
  encode, decode, info  .lvc files

leanvc {__version__}
"""


def main() -> None:
    """Hand the rest of the command line to the command."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("--version", "-V"):
        print(__version__)
    elif name in ("--help", "-h"):
        print(USAGE, end="")
    elif name in RECIPES:
        sys.argv = [f"leanvc {name}", *rest]
        import_module("prune.cli").main(import_module(f"prune.{name}").command)
    elif name == "compare":
        sys.exit(import_module("prune.compare").main(rest))
    elif name in FILES:
        sys.exit(import_module("vcodecs.__main__").main([name, *rest]))
    else:
        print(f"error no command is called {name!r}\n\n{USAGE}", end="", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
