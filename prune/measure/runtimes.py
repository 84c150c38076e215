"""Runtimes that ONNX graphs are timed on: onnxruntime, and OpenVINO where it is installed."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lvc.bundle import session
from lvc.errors import UserError

Runtime = Literal["onnxruntime", "openvino"]
Running = Callable[[Mapping[str, np.ndarray]], Any]
"""A graph, ready: takes its inputs by name."""


@dataclass(frozen=True)
class Setting:
    """A runtime as it is timed; `precision` fp32 or bf16, which only OpenVINO has on CPUs."""

    runtime: Runtime
    precision: str
    threads: int
    provider: str = "CPUExecutionProvider"

    @property
    def version(self) -> str:
        """Name and version."""
        if self.runtime == "openvino":
            return f"OpenVINO {_openvino().__version__.split('-')[0]}"
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def open(self, path: Path, inputs: Mapping[str, np.ndarray]) -> Running:
        """The graph of a file for inputs of these shapes."""
        if self.runtime == "openvino":
            return self._open_openvino(path, inputs)
        running = session(path, self.threads, self.provider)
        return lambda given: running.run(None, dict(given))

    def _open_openvino(self, path: Path, inputs: Mapping[str, np.ndarray]) -> Running:
        core = _core()
        model = core.read_model(str(path))
        # Of known shapes it plans its memory once.
        model.reshape({name: list(value.shape) for name, value in inputs.items()})
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self.precision],
            # As onnxruntime: trained weights leave denormal activations.
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()
        return lambda given: request.infer(dict(given))


def has_openvino() -> bool:
    return find_spec("openvino") is not None


def openvino_precisions() -> tuple[str, ...]:
    """OpenVINO's precisions on this processor: fp32, and bf16 where it has that itself."""
    device = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in device else ("fp32",)


def check_setting(runtime: Runtime, precision: str) -> None:
    """UserError where a runtime is not installed, or does not have a precision here."""
    if precision == "bf16" and runtime == "onnxruntime":
        raise UserError("onnxruntime has no bf16 on CPUs: set precision fp32, or runtime openvino")
    if runtime == "openvino":
        _openvino()
        if precision not in openvino_precisions():
            raise UserError(f"OpenVINO has no {precision} on this processor: set precision fp32")


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "openvino is not installed: pip install 'leanvc[openvino]', or set runtime onnxruntime"
        ) from error
    return openvino


@functools.cache
def _core() -> Any:
    return _openvino().Core()
