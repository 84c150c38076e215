"""ONNX bundles, run by a runtime of `lvc.runtimes` (`lvc.program.Networks`)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .binding import bound_graphs, entropy_graphs
from .errors import UserError
from .frame import Tensors
from .indices import MARGIN
from .manifest import BUNDLE, ENTROPY, FORMAT, file_hash, read_bundle, read_entropy
from .pictures import round_up
from .rates import rate_factor
from .runtimes import Arithmetic, Graph, Setting, Value, check_setting, in_one_line, session
from .steps import Step
from .tables import Table
from .wiring import Wiring, tensor_of

__all__ = ["BUNDLE", "ENTROPY", "FORMAT", "BundleNetworks", "file_hash", "read_bundle", "session"]


class BundleNetworks:
    """A bundle's graphs, run on a runtime, and its tables.

    `setting`: the runtime, and the precision of free graphs; bound ones (`lvc.binding`) run at it
    where `bound` is true, else in float32, as those of entropy parameters do anyhow. `arithmetic`:
    what a file has to say that is made so. `intra`: they are to make I frames, from nothing.

    Raises UserError, here, where a file is missing or malformed, where program, tables and graphs
    do not fit each other, and where graphs of 8 bits are bound but not to be; while running, where
    the runtime gives up or a graph's result has another size than it should have.
    """

    def __init__(
        self,
        folder: str | Path,
        margin: float = MARGIN,
        intra: bool = False,
        level: int | None = None,
        setting: Setting | None = None,
        bound: bool = False,
    ) -> None:
        self.folder, self.margin, self.level = Path(folder), margin, level
        self.setting = setting or Setting()
        check_setting(self.setting.runtime, self.setting.precision)
        self.bundle = read_bundle(self.folder)
        coding = self.bundle["coding"]
        if not coding:
            raise UserError(f"{folder}: its codec has no program to decode with")
        self.identity = coding["weights"]
        self.multiple = self.bundle["size_multiple"]
        self.steps = tuple(_step(step) for step in coding["steps"])
        self._entropy = read_entropy(self.folder, self.bundle)
        self._wiring = self._wired(() if intra else ("reference",))
        self._entropy_graphs = set(entropy_graphs(self._wiring.graphs, self.steps))
        bound_ones = set(bound_graphs(self._wiring.graphs, self.steps))
        self._carried = bound_ones - self._entropy_graphs
        self.arithmetic = self._arithmetic() if bound else None
        self._graphs = {name: self._opened(name, bound) for name in self._wiring.used()}

    def at(self, rate: float | None) -> "BundleNetworks":
        return self

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        entry = self._wiring.graphs[graph]
        given = {name: np.ascontiguousarray(inputs[name], np.float32) for name in entry["inputs"]}
        names = entry["outputs"]
        try:
            results = self._graphs[graph].run(given, names)
        except Exception as error:  # those of runtimes have nothing in common
            reason, runtime = in_one_line(error), self.setting.runtime
            raise UserError(f"{self._file(graph)}: {runtime} cannot run it ({reason})") from error
        made = dict(zip(names, results, strict=True))
        self._check_results(graph, given, made)
        return made

    def channels(self, name: str) -> int:
        return self._wiring.shapes[name].channels

    def stride(self, name: str) -> int:
        return self._wiring.shapes[name].stride

    def hyper_tables(self, stream: str) -> Sequence[Table]:
        return self._entropy.tables[stream]

    def quantiser(self, stream: str, rate: float | None) -> np.ndarray:
        parts = self._entropy.quantisers[stream]
        return parts["basic"].reshape(1, -1, 1, 1) * rate_factor(parts["points"], rate)

    def factor(self, name: str, rate: float | None) -> np.ndarray:
        return rate_factor(self._entropy.factors[name], rate)

    def check_size(self, height: int, width: int) -> None:
        """UserError where the graphs were exported for pictures of another size than this alone."""
        height, width = round_up(height, self.multiple), round_up(width, self.multiple)
        if (only := self.bundle["size"]) not in (None, [height, width]):
            raise UserError(
                f"{self.folder}: exported for frames of {only[1]}x{only[0]} alone, but the video's "
                f"are {width}x{height} with what pads them: export it without a fixed size"
            )

    # ------------------------------------------------------------------ checks

    def _wired(self, before: Sequence[str]) -> Wiring:
        graphs = {entry["name"]: entry for entry in self.bundle["graphs"]}
        tables = {stream: len(own) for stream, own in self._entropy.tables.items()}
        factors = {name: own["basic"].size for name, own in self._entropy.quantisers.items()}
        try:
            return Wiring(graphs, self.steps, tables, factors, before, self._entropy.factors)
        except ValueError as error:
            raise UserError(
                f"{self.folder / BUNDLE}: its program cannot be carried out: {error}"
            ) from error

    def _file(self, graph: str) -> Path:
        return self.folder / self._wiring.graphs[graph]["file"]

    def _opened(self, graph: str, bound: bool) -> Graph:
        """A graph that has the inputs and outputs which bundle.json says."""
        path, entry = self._file(graph), self._wiring.graphs[graph]
        try:
            opened = self._set_for(graph, bound).open(path)
        except UserError:
            raise
        except Exception as error:  # those of runtimes have nothing in common
            reason = in_one_line(error)
            raise UserError(f"{path}: {self.setting.runtime} cannot load it ({reason})") from error
        there = {"input": opened.inputs, "output": opened.outputs}
        named = {"input": entry["inputs"], "output": entry["outputs"]}
        for kind, values in there.items():
            found = {value.name: value for value in values}
            for name in named[kind]:
                if name not in found:
                    raise UserError(f"{path}: has no {kind} {name}, which bundle.json names")
                self._check_value(graph, kind, found[name])
        for name in (value.name for value in there["input"]):
            if name not in entry["inputs"]:
                raise UserError(f"{path}: has an input {name}, which bundle.json does not name")
        return opened

    def _set_for(self, graph: str, bound: bool) -> Setting:
        """The setting of one graph; UserError for one of 8 bits that has to be float32."""
        if graph not in self._carried | self._entropy_graphs or (graph in self._carried and bound):
            return self.setting
        if self._is_int8(graph):
            raise UserError(
                f"{self._file(graph)}: has 8-bit weights and decides how bits are read, but the "
                "file was made in float32: decode it by a bundle in float32, or encode by this "
                "one (encode --bundle)"
            )
        return replace(self.setting, precision="fp32")

    def _is_int8(self, graph: str) -> bool:
        return self._wiring.graphs[graph].get("precision", "fp32") == "int8"

    def _arithmetic(self) -> Arithmetic | None:
        """That of the bound graphs; None where it is float32, which every receiver has."""
        runtime = self.setting.runtime
        if eight := sorted(name for name in self._carried if self._is_int8(name)):
            hashes = "".join(self._wiring.graphs[name]["sha256"] for name in eight)
            return Arithmetic(runtime, "int8", hashlib.sha256(hashes.encode()).hexdigest())
        if self._carried and self.setting.precision == "bf16":
            return Arithmetic(runtime, "bf16")
        return None

    def _check_value(self, graph: str, kind: str, value: Value) -> None:
        """The runtime's word on an input or output; its sides are known when it runs."""
        path = self._file(graph)
        if value.kind != "tensor(float)":
            raise UserError(f"{path}: {kind} {value.name} holds {value.kind}, not tensor(float)")
        shape = self._wiring.shapes.get(tensor_of(self._wiring.graphs[graph], value.name))
        channels = value.sides[1] if len(value.sides) == 4 else None
        if shape and type(channels) is int and channels != shape.channels:
            raise UserError(
                f"{path}: {kind} {value.name} has {channels} channels, not {shape.channels}"
            )

    def _check_results(self, graph: str, given: Tensors, made: Tensors) -> None:
        entry, shapes = self._wiring.graphs[graph], self._wiring.shapes
        # One of those that have the frame's size; what rates bring has none.
        strides = {name: shapes[tensor_of(entry, name)].stride for name in given}
        name = next(name for name, stride in strides.items() if stride)
        first, stride = given[name], strides[name]
        for name, value in made.items():
            shape = shapes.get(name)
            if shape is None:
                continue
            expected: tuple[int, ...] = (len(first), shape.channels, 1, 1)
            if not entry.get("positions") and shape.stride:
                sides = (side * stride // shape.stride for side in first.shape[2:])
                expected = (1, shape.channels, *sides)
            if value.shape != expected:
                found, wanted = ("x".join(map(str, each)) for each in (value.shape, expected))
                raise UserError(f"{self._file(graph)}: {name} is {found}, not {wanted}")


def _step(read: Mapping) -> Step:
    return Step(**{**read, "graphs": tuple(read.get("graphs", ()))})
