"""leanvc's compression: find channel groups, sparsify, shrink, train on, export, measure.

Commands are `python -m prune.run|sweep|plan|train|export|compare|prepare`. From Python the same
steps are functions (`prune.interface`); those that share a name with a command are called through
its module: `prune.plan(codec, budget=0.35)`. Names are imported when first used: help texts need no
torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_CALLABLE = ("run", "sweep", "plan", "sparsify", "export", "compare")
_HOMES = {
    "Masks": "prune.interface",
    "Recipe": "prune.recipe.schema",
    "clip": "prune.interface",
    "find_groups": "prune.groups.find",
    "finetune": "prune.interface",
    "load_recipe": "prune.recipe.reading",
    "shrink": "prune.interface",
}

__all__ = sorted({*_CALLABLE, *_HOMES})


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return import_module(f"prune.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'prune' has no attribute {name!r}")


def make_callable(module: str, home: str = "prune.interface") -> None:
    """Let a module of this package be called as the function of its name in `home`.

    A module and a function of one name cannot both be the package's attribute: whichever is
    imported last would win. So the module is both.
    """

    class CallableModule(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            function = getattr(import_module(home), module.rpartition(".")[2])
            return function(*arguments, **named)

    sys.modules[module].__class__ = CallableModule
