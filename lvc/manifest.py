"""The JSON files of a bundle, read and checked: bundle.json and entropy.json (docs/bitstream.md).

A bundle may come from anywhere, so nothing in it is believed. What is of the right kind here can
still be a program that does not fit its graphs: that is `lvc.wiring`'s.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from .errors import UserError
from .rules import (
    COUNT,
    LIST,
    NAME,
    OBJECT,
    SHA256,
    TEXT,
    Rule,
    check,
    is_count,
    is_integer,
    is_number,
    is_text,
    one_of,
    within,
)
from .steps import Kind
from .tables import PRECISION, Distribution, Table

BUNDLE, ENTROPY = "bundle.json", "entropy.json"
FORMAT = "leanvc-bundle-2"

FARTHEST_SYMBOL = 2**20
LARGEST_FACTOR = 1e30  # and far below the largest float32
MOST_COPIES = 16
MOST_MULTIPLE = 256
MOST_GRAPHS = 16


@dataclass(frozen=True)
class Entropy:
    """entropy.json: by stream one table a channel of its hyper latent, and its quantiser."""

    tables: dict[str, list[Table]]
    quantisers: dict[str, dict[str, np.ndarray]]
    """By stream `basic`, float32 (C,), and `points`, float32 (R,)."""
    factors: dict[str, np.ndarray]
    """By tensor the rate points' factors, float32 (R,)."""


def read_bundle(folder: str | Path) -> dict:
    """bundle.json of a folder, every file's hash checked. UserError where it is not whole."""
    path = Path(folder) / BUNDLE
    bundle = read_json(path, _check_bundle)
    parts = [*bundle["graphs"], *([bundle["coding"]["entropy"]] if bundle["coding"] else [])]
    for part in parts:
        _check_hash(path.parent / part["file"], part["sha256"])
    return bundle


def read_entropy(folder: str | Path, bundle: dict) -> Entropy:
    """entropy.json of a bundle that `read_bundle` has read. UserError where it is malformed."""
    return read_json(
        Path(folder) / bundle["coding"]["entropy"]["file"], lambda read: _entropy(read, bundle)
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, parsed: Callable[[Any], Any], what: str = "bundle") -> Any:
    """A JSON file as `parsed` has it; its ValueErrors become the user's. `what` the file is of."""
    try:
        return parsed(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path}: not a readable {what} (there is no such file): give the folder of a bundle, "
            "such as a run's onnx"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{path}: not a readable {what} ({reason}): export it again")


def _check_hash(path: Path, digest: str) -> None:
    try:
        sound = path.is_file() and file_hash(path) == digest
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not sound:
        raise UserError(f"{path}: missing, or not the file that bundle.json was written for")


# ------------------------------------------------------------------------------ bundle.json


def is_file_name(value: Any) -> bool:
    """Of a file or folder beside the one that names it."""
    return is_text(value) and value not in ("", ".", "..") and not set(value) & set("/\\:")


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(is_text(v) and v for v in value)


def _is_graphs(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_GRAPHS and all(map(is_text, value))


def _is_size(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(map(is_count, value))
    )


_FILE: dict[str, Rule] = {
    "file": (is_file_name, "the name of a file in this folder"),
    "sha256": SHA256,
}
_BUNDLE: dict[str, Rule] = {
    "size_multiple": (
        lambda value: is_integer(value, 1, MOST_MULTIPLE),
        f"an integer from 1 to {MOST_MULTIPLE}",
    ),
    "graphs": LIST,
    "rates": LIST,
    "size": (_is_size, "null or a list of height and width"),
    "coding": (lambda value: True, ""),
}
_GRAPH = _FILE | {
    "name": NAME,
    "inputs": (lambda value: isinstance(value, dict) and value != {}, "an object of inputs"),
    "outputs": (_is_names, "a list of names"),
}
_LATER_GRAPH: dict[str, Rule] = {"precision": one_of("fp32", "int8")}
_CODING = {"weights": SHA256, "steps": LIST, "entropy": (lambda value: True, "")}
_STEP: dict[str, Rule] = {
    "kind": one_of(*get_args(Kind)),
    "name": NAME,
    "graph": TEXT,
    "after_intra": TEXT,
    "distribution": one_of(*get_args(Distribution)),
    "copies": (lambda v: is_integer(v, 1, MOST_COPIES), f"an integer from 1 to {MOST_COPIES}"),
}
_LATER_STEP: dict[str, Rule] = {
    "graphs": (_is_graphs, f"a list of at most {MOST_GRAPHS} names of graphs"),
}
"""Keys that bundles have only where they need them."""
_POSITIONS = {"channels": COUNT}


def _check_bundle(bundle: Any) -> dict:
    """The same bundle; ValueError where something in it is not what docs/bitstream.md says."""
    check(bundle, {}, others=True)
    if (found := bundle.get("format")) != FORMAT:
        raise ValueError(f"its format is {found!r}; {FORMAT} can be read")
    check(bundle, _BUNDLE, others=True)
    for number, graph in enumerate(bundle["graphs"]):
        _check_graph(graph, f"graphs[{number}]", bundle["size_multiple"])
    names = [graph["name"] for graph in bundle["graphs"]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two graphs are called {name!r}")
    if bundle["coding"] is not None:
        _check_coding(bundle["coding"])
    return bundle


def _check_graph(graph: Any, where: str, multiple: int) -> None:
    with within(where):
        check(graph, _GRAPH, others=True, optional=_LATER_GRAPH)
    strides = [stride for stride in range(1, multiple + 1) if multiple % stride == 0]
    of_frames = _POSITIONS | {"stride": one_of(0, *strides)}
    rules = _POSITIONS if graph.get("positions") else of_frames
    for name, shape in graph["inputs"].items():
        with within(f"{where}.inputs.{name}"):
            check(shape, rules)


def _check_coding(coding: Any) -> None:
    with within("coding"):
        check(coding, _CODING)
    with within("coding.entropy"):
        check(coding["entropy"], _FILE)
    for number, step in enumerate(coding["steps"]):
        with within(f"coding.steps[{number}]"):
            check(step, _STEP, optional=_LATER_STEP)


# ------------------------------------------------------------------------------ entropy.json


def _is_frequencies(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(is_integer(each, 1, 1 << PRECISION) for each in value)
    )


def _is_factors(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(_is_factor(each) for each in value)


def _is_factor(value: Any) -> bool:
    return is_number(value, LARGEST_FACTOR)


_TABLE: dict[str, Rule] = {
    "first": (
        lambda value: is_integer(value, -FARTHEST_SYMBOL, FARTHEST_SYMBOL),
        f"an integer from {-FARTHEST_SYMBOL} to {FARTHEST_SYMBOL}",
    ),
    "frequencies": (_is_frequencies, "a list of two or more integers from 1 on"),
}
_FACTORS: Rule = _is_factors, "a list of numbers"


def _entropy(content: Any, bundle: dict) -> Entropy:
    check(content, {"hyper": OBJECT, "quantisers": OBJECT}, optional={"factors": OBJECT})
    tables = {
        stream: _tables(listed, f"hyper.{stream}") for stream, listed in content["hyper"].items()
    }
    rates = len(bundle["rates"])
    quantisers = {
        stream: _quantiser(parts, rates, f"quantisers.{stream}")
        for stream, parts in content["quantisers"].items()
    }
    factors = {
        name: _points(values, rates, f"factors.{name}")
        for name, values in content.get("factors", {}).items()
    }
    return Entropy(tables, quantisers, factors)


def _tables(listed: Any, where: str) -> list[Table]:
    if not isinstance(listed, list):
        raise ValueError(f"{where}: {listed!r:.80} is not a list of tables")
    return [_table(content, f"{where}[{number}]") for number, content in enumerate(listed)]


def _table(content: Any, where: str) -> Table:
    with within(where):
        check(content, _TABLE)
        frequencies = np.array(content["frequencies"], np.int64)
        if (total := int(frequencies.sum())) != 1 << PRECISION:
            raise ValueError(f"frequencies add up to {total}, not {1 << PRECISION}")
    return Table(frequencies, content["first"])


def _quantiser(parts: Any, rates: int, where: str) -> dict[str, np.ndarray]:
    with within(where):
        check(parts, {"basic": _FACTORS, "points": _FACTORS})
        if (found := len(parts["points"])) != rates:
            raise ValueError(f"{found} points for the {rates} rates")
    return {part: np.array(values, np.float32) for part, values in parts.items()}


def _points(values: Any, rates: int, where: str) -> np.ndarray:
    with within(where):
        if not _is_factors(values):
            raise ValueError("is not a list of numbers")
        if len(values) != rates:
            raise ValueError(f"{len(values)} points for the {rates} rates")
    return np.array(values, np.float32)
