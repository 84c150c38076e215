"""ONNX bundles, run by onnxruntime (`lvc.program.Networks`)."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .errors import UserError
from .frame import Tensors
from .indices import MARGIN
from .manifest import BUNDLE, ENTROPY, FORMAT, file_hash, read_bundle, read_entropy
from .pictures import round_up
from .rates import rate_factor
from .steps import Step
from .tables import Table
from .wiring import Wiring, tensor_of

__all__ = ["BUNDLE", "ENTROPY", "FORMAT", "BundleNetworks", "file_hash", "read_bundle", "session"]


def session(path: str | Path, threads: int = 0, provider: str = "CPUExecutionProvider"):  # noqa: ANN201
    """An onnxruntime session on one provider; denormals count as zero.

    In this thread from then on they do so everywhere (torch: `torch.set_flush_denormal(False)`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised; it need not be printed as well
    # Trained weights leave denormal activations, which are up to a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    _register_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=[provider])


@functools.cache
def _register_arena() -> None:
    """One CPU arena for all sessions that grows by what is asked for.

    The default one grows by powers of two: graphs of 1920x1088 that need 3 GiB took more than 20.
    """
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = ort.OrtArenaCfg(0, 1, -1, -1)
    ort.create_and_register_allocator(memory, same_as_requested)


class BundleNetworks:
    """A bundle's graphs, run by onnxruntime, and its tables.

    `intra`: they are to make I frames, from nothing. Raises UserError, here, where a file is
    missing or malformed and where program, tables and graphs do not fit each other; while running,
    where onnxruntime gives up or a graph's result has another size than it should have.
    """

    def __init__(
        self,
        folder: str | Path,
        margin: float = MARGIN,
        threads: int = 0,
        provider: str = "CPUExecutionProvider",
        intra: bool = False,
        level: int | None = None,
    ) -> None:
        self.folder, self.margin, self.level = Path(folder), margin, level
        self.bundle = read_bundle(self.folder)
        coding = self.bundle["coding"]
        if not coding:
            raise UserError(f"{folder}: its codec has no program to decode with")
        self.identity = coding["weights"]
        self.multiple = self.bundle["size_multiple"]
        self.steps = tuple(_step(step) for step in coding["steps"])
        self._entropy = read_entropy(self.folder, self.bundle)
        self._wiring = self._wired(() if intra else ("reference",))
        self._sessions = {
            name: self._opened(name, threads, provider) for name in self._wiring.used()
        }

    def at(self, rate: float | None) -> "BundleNetworks":
        return self

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        entry = self._wiring.graphs[graph]
        given = {name: np.ascontiguousarray(inputs[name], np.float32) for name in entry["inputs"]}
        names = entry["outputs"]
        try:
            results = self._sessions[graph].run(names, given)
        except Exception as error:  # onnxruntime's have nothing in common
            reason = _in_one_line(error)
            raise UserError(f"{self._file(graph)}: onnxruntime cannot run it ({reason})") from error
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

    def _opened(self, graph: str, threads: int, provider: str):
        """A graph's session; it has the inputs and outputs that bundle.json says."""
        path, entry = self._file(graph), self._wiring.graphs[graph]
        try:
            opened = session(path, threads, provider)
        except Exception as error:  # onnxruntime's have nothing in common
            raise UserError(
                f"{path}: onnxruntime cannot load it ({_in_one_line(error)})"
            ) from error
        there = {"input": opened.get_inputs(), "output": opened.get_outputs()}
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

    def _check_value(self, graph: str, kind: str, value) -> None:  # noqa: ANN001
        """Onnxruntime's word on an input or output; its sides are known when it runs."""
        path = self._file(graph)
        if value.type != "tensor(float)":
            raise UserError(f"{path}: {kind} {value.name} holds {value.type}, not tensor(float)")
        shape = self._wiring.shapes.get(tensor_of(self._wiring.graphs[graph], value.name))
        channels = value.shape[1] if len(value.shape) == 4 else None
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


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
