"""Runtimes of a bundle's graphs: onnxruntime, or OpenVINO where it is installed, at a precision.

In float32 runtimes differ by a rounding error here and there, which a file's margin covers. At a
lower precision they differ by far more than any margin: graphs that decide how bits are read
(`lvc.binding`) run so only for files that were made so, and such a file says it, as `Arithmetic`.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from .errors import UserError

Runtime = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
"""`int8` is a property of graphs: they hold 8-bit weights, and say where to round."""
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class Arithmetic:
    """The runtime and the precision of the graphs that decide how a file's bits are read.

    `graphs`: SHA-256 over those graphs where they are not the codec's own (int8), else "".
    """

    runtime: str
    precision: str
    graphs: str = ""

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}" + (f" {self.graphs[:12]}" if self.graphs else "")


@dataclass(frozen=True)
class Value:
    """An input or output of a graph; `sides` that are not fixed are None."""

    name: str
    kind: str
    sides: tuple[int | None, ...]


class Graph(Protocol):
    """A graph, ready to run."""

    inputs: list[Value]
    outputs: list[Value]

    def run(
        self, given: Mapping[str, np.ndarray], names: Sequence[str] | None = None
    ) -> Sequence[np.ndarray]:
        """The named outputs, or all of them."""


@dataclass(frozen=True)
class Setting:
    """The way graphs are run. `threads`: 0 for all; `provider`: of onnxruntime.

    `precision` int8 runs graphs that hold 8-bit weights; what else is in them is float32.
    """

    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"
    threads: int = 0
    provider: str = "CPUExecutionProvider"

    @property
    def version(self) -> str:
        """Name and version."""
        if self.runtime == "openvino":
            return f"OpenVINO {_openvino().__version__.split('-')[0]}"
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def open(self, path: Path) -> Graph:
        """The graph of a file; what the runtime raises where it cannot read it."""
        if self.runtime == "openvino":
            return _OpenVino(path, self)
        return _OnnxRuntime(path, self)


class _OnnxRuntime:
    def __init__(self, path: Path, setting: Setting) -> None:
        self._session = session(path, setting.threads, setting.provider)
        self.inputs = [_value(value) for value in self._session.get_inputs()]
        self.outputs = [_value(value) for value in self._session.get_outputs()]

    def run(
        self, given: Mapping[str, np.ndarray], names: Sequence[str] | None = None
    ) -> Sequence[np.ndarray]:
        return self._session.run(names and list(names), dict(given))


def _value(value: Any) -> Value:
    return Value(value.name, value.type, _sides(value.shape))


def _sides(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(side if type(side) is int else None for side in shape)


class _OpenVino:
    """Compiled anew for each frame size that it meets, which lets it plan its memory.

    Graphs of single positions take any number of them: those are compiled once.
    """

    def __init__(self, path: Path, setting: Setting) -> None:
        core = _core()
        self._options = {
            "INFERENCE_NUM_THREADS": setting.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if setting.precision == "bf16" else "f32",
            # As onnxruntime: trained weights leave denormal activations.
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        self._model = core.read_model(str(path))
        self.inputs = [_port(port) for port in self._model.inputs]
        self.outputs = [_port(port) for port in self._model.outputs]
        self._any_count = all(value.sides[:1] == (None,) for value in self.inputs)
        self._request: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(
        self, given: Mapping[str, np.ndarray], names: Sequence[str] | None = None
    ) -> Sequence[np.ndarray]:
        self._prepare({name: value.shape for name, value in given.items()})
        self._request.infer(dict(given))
        names = names or [value.name for value in self.outputs]
        return [self._request.get_tensor(name).data.copy() for name in names]

    def _prepare(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if self._request is not None and (self._any_count or shapes == self._shapes):
            return
        if not self._any_count:
            self._model.reshape({name: list(shape) for name, shape in shapes.items()})
        compiled = _core().compile_model(self._model, "CPU", self._options)
        self._request, self._shapes = compiled.create_infer_request(), shapes


def _port(port: Any) -> Value:
    kind = port.element_type.to_string()
    shape = port.partial_shape
    sides = tuple(side.get_length() if side.is_static else None for side in shape)
    return Value(port.any_name, "tensor(float)" if kind == "f32" else kind, sides)


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
    # A frame goes through several sessions, each with threads of its own. Those that have nothing
    # to do would spin on the cores that the next session needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    from importlib.util import find_spec

    return find_spec("openvino") is not None


def openvino_precisions() -> tuple[Precision, ...]:
    """OpenVINO's float precisions on this processor: fp32, and bf16 where it has that itself."""
    device = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in device else ("fp32",)


def check_setting(runtime: Runtime, precision: Precision) -> None:
    """UserError where a runtime is not installed, or does not have a precision here."""
    if precision == "bf16" and runtime == "onnxruntime":
        raise UserError("onnxruntime has no bf16 on CPUs: set precision fp32, or runtime openvino")
    if runtime == "openvino":
        _openvino()
        if precision == "bf16" and precision not in openvino_precisions():
            raise UserError("OpenVINO has no bf16 on this processor: set precision fp32")


def in_one_line(error: Exception) -> str:
    """The words of a runtime's error, which errors have nothing in common."""
    return f"{type(error).__name__}: {' '.join(re.sub(r'[^ -~]+', ' ', str(error)).split())[:300]}"


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "openvino is not installed: pip install 'openvino>=2025.0', or set runtime onnxruntime"
        ) from error
    return openvino


@functools.cache
def _core() -> Any:
    return _openvino().Core()
