"""Weights inside of what training scripts save: found by their names, whatever is around them.

`_orig_mod.` (torch.compile), `module.` (DataParallel, AveragedModel), `model.` (Lightning), an
`ema` beside the raw weights: there is no end to such names, so none of them is known here. A set
of weights is taken where, below some key or prefix, its names are all those of the codec.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from lvc.errors import UserError, printable
from vcodecs.contract import VideoCodec

log = logging.getLogger("vcodecs")
DEEPEST = 4
"""Keys and prefixes around the weights; `state_dict`, `ema`, `module`, `_orig_mod` are four."""


@dataclass(frozen=True)
class Weights:
    """Tensors by name, below the keys and prefixes of `place` ("" for the whole file)."""

    place: str
    tensors: dict[str, Tensor]


def unwrapped(codec: VideoCodec, content: Any, where: str, key: str | None) -> dict[str, Tensor]:
    """The weights of `codec` in what was read from `where`; said on the log if not all of it.

    `key`: the place to look in, such as `params_ema` or `state_dict.model`. Without any that fits
    those that come closest are returned, for strict loading to name what is wrong. UserError
    where nothing is a tensor, where `key` is not there, or where several sets fit and differ.
    """
    every = list(_weights(content, "", {}))
    if not every:
        raise UserError(f"{where}: holds no state dict (tensors by name){_keys(content)}")
    inside = every if key is None else [w for w in every if _below(w.place, key)]
    if not inside and key is not None:
        inside = [w for w in every if w.place.endswith(f".{key}")]
    if not inside:
        raise UserError(f"{where}: holds no weights under {key!r}{_keys(content)}")
    fitting = [weights for weights in inside if _names_fit(codec, weights.tensors)]
    fitting = [weights for weights in fitting if _shapes_fit(codec, weights.tensors)] or fitting
    if not fitting:
        return max(inside, key=lambda weights: _in_common(codec, weights.tensors)).tensors
    first, *others = fitting
    if not all(_equal(first.tensors, other.tensors) for other in others):
        raise UserError(_choice(where, fitting))
    if first.place not in ("", key):
        log.warning("%s: took the weights under `%s`", where, first.place)
    return first.tensors


def _weights(content: Any, place: str, seen: dict[int, Any], depth: int = 0) -> Iterator[Weights]:
    """Whatever might be a set of weights, from the outside inwards."""
    if not isinstance(content, dict) or id(content) in seen:
        return
    seen[id(content)] = content  # held, so that no later dict gets its number
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield Weights(place, tensors)
    if depth == DEEPEST:
        return
    parts: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        prefix, dot, rest = name.partition(".")
        if dot:
            parts.setdefault(prefix, {})[rest] = value
    dicts = {key: value for key, value in named.items() if isinstance(value, dict)}
    for key, inner in [*parts.items(), *dicts.items()]:
        yield from _weights(inner, f"{place}.{key}" if place else key, seen, depth + 1)


def _below(place: str, key: str) -> bool:
    return place == key or place.startswith(f"{key}.")


def _names_fit(codec: VideoCodec, tensors: dict[str, Tensor]) -> bool:
    return _renamed(codec, tensors).keys() == codec.state_dict().keys()


def _shapes_fit(codec: VideoCodec, tensors: dict[str, Tensor]) -> bool:
    mine, theirs = codec.state_dict(), _renamed(codec, tensors)
    return all(theirs[name].shape == value.shape for name, value in mine.items())


def _in_common(codec: VideoCodec, tensors: dict[str, Tensor]) -> int:
    return len(_renamed(codec, tensors).keys() & codec.state_dict().keys())


def _renamed(codec: VideoCodec, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the codec has them; as they are where a codec's own renaming gives up."""
    # A part of a network cannot be the whole, and the names of every part would be gone through.
    if 2 * len(tensors) < len(codec.state_dict()):
        return tensors
    try:
        return codec.remap_official(tensors)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError):
        return tensors


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _choice(where: str, fitting: list[Weights]) -> str:
    places = [printable(weights.place) or "the file itself" for weights in fitting]
    path, key = where.removeprefix("checkpoint "), printable(fitting[-1].place)
    return (
        f"{where}: holds several sets of weights that fit and differ, under "
        f"{shorten(', '.join(places), 150, placeholder=' ...')}: name one of them, such as "
        f"codec.checkpoint: {{path: {path}, key: {key}}} (on a command line "
        f"'codec.checkpoint={{path: {path}, key: {key}}}', in Python key={key!r})"
    )


def _keys(content: Any) -> str:
    if not isinstance(content, dict):
        return ""
    keys = ", ".join(map(printable, content))
    return f"; its keys: {shorten(keys, 150, placeholder=' ...') or 'none'}"
