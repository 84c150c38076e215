"""The members of a sweep: every combination of the values that its settings are given."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from vcodecs import UserError

OPENING, CLOSING, QUOTES = "[{(", "]})", "\"'"
LONGEST = 40  # characters of a value in a folder's name
OUTPUT = "output"


@dataclass(frozen=True)
class Member:
    """One run of a sweep. `values`: what varies, as it was written, by its dotted key."""

    name: str
    values: dict[str, str]
    overrides: tuple[str, ...]
    recipe: Recipe

    @property
    def folder(self) -> Path:
        return self.recipe.output


@dataclass(frozen=True)
class Sweep:
    """Members in the order of the product, the last setting fastest; `folder` holds theirs."""

    recipe: Path
    folder: Path
    varied: tuple[str, ...]
    members: tuple[Member, ...]


def axes_of(values: Mapping[str, Sequence[Any] | Any]) -> list[str]:
    """Settings with values as Python has them, as one writes them on the command line."""
    texts = []
    for key, given in values.items():
        several = given if isinstance(given, list | tuple | range) else [given]
        texts.append(f"{key}={','.join(_as_yaml(value) for value in several)}")
    return texts


def expand(path: str | Path, settings: Sequence[str]) -> Sweep:
    """The sweep of a recipe over `key=value,value,...`; a key with one value is set in all runs.

    Every member's recipe is read and checked. UserError for what is wrong in any of them.
    """
    axes = _axes(settings)
    varied = [key for key, values in axes.items() if len(values) > 1]
    if not varied:
        raise UserError(
            "a sweep needs a setting with several values, such as prune.budget=0.5,0.35"
        )
    common = [f"{key}={values[0]}" for key, values in axes.items() if len(values) == 1]
    folder = load_recipe(path, [o for o in common if not _varies(o, varied)], Recipe).output
    members = []
    for combination in product(*(axes[key] for key in varied)):
        values = dict(zip(varied, combination, strict=True))
        name = _name(values)
        overrides = [*common, *(f"{key}={value}" for key, value in values.items())]
        overrides = [o for o in overrides if not o.startswith(f"{OUTPUT}=")]
        overrides.append(f"{OUTPUT}={_as_yaml(str(folder / name))}")
        members.append(Member(name, values, tuple(overrides), load_recipe(path, overrides, Recipe)))
    return Sweep(Path(path), folder, tuple(varied), tuple(members))


def _axes(settings: Sequence[str]) -> dict[str, list[str]]:
    """Values by key, each once."""
    axes: dict[str, list[str]] = {}
    for text in settings:
        key, separator, values = text.partition("=")
        if not key or not separator:
            raise UserError(f"setting {text!r}: write it as dotted.key=value,value")
        if key in axes:
            raise UserError(f"setting {key}: given twice; write its values behind one another")
        axes[key] = list(dict.fromkeys(_split(values)))
        if key == OUTPUT and len(axes[key]) > 1:
            raise UserError("output: one folder for the whole sweep; each run has its own in it")
    return axes


def _varies(override: str, varied: Sequence[str]) -> bool:
    return override.partition("=")[0] in varied


def _split(values: str) -> list[str]:
    """The values between commas, other than those within brackets or quotes."""
    found, depth, quote, begun = [], 0, "", 0
    for at, sign in enumerate(values):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in QUOTES and not values[begun:at].strip():
            quote = sign
        elif sign in OPENING:
            depth += 1
        elif sign in CLOSING:
            depth -= 1
        elif sign == "," and depth <= 0:
            found.append(values[begun:at].strip())
            begun = at + 1
    return [*found, values[begun:].strip()]


def _name(values: Mapping[str, str]) -> str:
    """A folder's name, such as `budget=0.5_seed=0`; the same in every sweep that has them."""
    lasts = [key.rpartition(".")[2] for key in values]
    parts, altered = [], False
    for key, last in zip(values, lasts, strict=True):
        plain = re.sub(r"[^A-Za-z0-9.+-]+", "-", values[key]).strip("-.")[:LONGEST]
        altered = altered or plain != values[key]
        parts.append(f"{last if lasts.count(last) == 1 else key}={plain}")
    name = "_".join(parts)
    if altered:  # two values may look alike by now
        name += f"_{hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:6]}"
    return name


def _as_yaml(value: Any) -> str:
    """A value on one line of YAML, as an override takes it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False).strip()
    return text.removesuffix("\n...").strip()
