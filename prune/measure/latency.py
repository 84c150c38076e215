"""Latency of two decoders on a runtime: interleaved, paired, with spread."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lvc.runtimes import Precision, Runtime, Setting
from prune.onnx_export.bundle import example_inputs
from vcodecs import DecoderGraph, VideoCodec


def compare_latency(
    dense: tuple[VideoCodec, Path],
    sparse: tuple[VideoCodec, Path],
    height: int,
    width: int,
    runs: int,
    threads: int | None = None,
    provider: str = "CPUExecutionProvider",
    note: str = "",
    runtime: Runtime | Literal["torch"] = "onnxruntime",
    precision: Precision = "fp32",
) -> dict[str, Any]:
    """One row of the report's `latency`.

    `dense` and `sparse` are codecs with their bundle folders. A run is one pass through all
    decoder graphs of a P frame behind another; dense and sparse runs alternate, and which comes
    first too, so that what else the machine does hits both. `speedup` is the ratio within each
    pair. Reading bits is not in it, nor the repetition of the auto-regressive graphs by position:
    network time. `note` is shown beside the runtime. `runtime`: also OpenVINO, at `precision`, and
    eager torch on the CPU, which needs no bundles.
    """
    threads = threads or os.cpu_count() or 1
    if runtime == "torch":
        version = f"torch {torch.__version__.split('+')[0]}, eager"
        decoders = [_Decoder(codec, height, width, _eager) for codec, _ in (dense, sparse)]
    else:
        setting = Setting(runtime, precision, threads, provider)
        version = setting.version
        decoders = [_Decoder(codec, height, width, _graphs(setting, folder))
                    for codec, folder in (dense, sparse)]  # fmt: skip
    with _torch_threads(threads):
        times = _alternate(decoders, runs)
    torch.set_flush_denormal(False)
    by_graph = [np.array(t) * 1000 for t in times]
    dense_ms, sparse_ms = (t.sum(axis=1) for t in by_graph)
    return {
        "runtime": f"{version}, {note}" if note else version,
        "provider": provider,
        "threads": threads,
        "precision": precision,
        "height": decoders[0].size[0],
        "width": decoders[0].size[1],
        "runs": runs,
        "dense_ms": _spread(dense_ms),
        "sparse_ms": _spread(sparse_ms),
        "speedup": _spread(dense_ms / sparse_ms),
        "device": device_name(provider),
        "breakdown": [
            {
                "name": name,
                "dense_ms": float(np.median(by_graph[0][:, i])),
                "sparse_ms": float(np.median(by_graph[1][:, i])),
            }
            for i, name in enumerate(decoders[0].names)
        ],
    }


def _alternate(decoders: Sequence["_Decoder"], runs: int) -> list[list[np.ndarray]]:
    """Seconds by decoder, run and graph, behind a first run of each that does not count."""
    for decoder in decoders:
        decoder.run()
    times: list[list[np.ndarray]] = [[], []]
    for i in range(runs):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which].append(decoders[which].run())
    return times


Running = Callable[[], object]
Opener = Callable[[DecoderGraph, Mapping[str, np.ndarray]], Running]


class _Decoder:
    """All graphs of one codec, ready to run on fixed inputs."""

    def __init__(self, codec: VideoCodec, height: int, width: int, opened: Opener) -> None:
        graphs = codec.steady_graphs(height, width)
        self.size = graphs[0].size
        self.names = [graph.name for graph in graphs]
        self.graphs = [opened(graph, example_inputs(graph)) for graph in graphs]

    def run(self) -> np.ndarray:
        """Seconds of each graph."""
        seconds = []
        for running in self.graphs:
            start = time.perf_counter()
            running()
            seconds.append(time.perf_counter() - start)
        return np.array(seconds)


def _graphs(setting: Setting, folder: Path) -> Opener:
    def opened(graph: DecoderGraph, inputs: Mapping[str, np.ndarray]) -> Running:
        running = setting.open(folder / f"{graph.name}.onnx")
        return lambda: running.run(inputs)

    return opened


def _eager(graph: DecoderGraph, inputs: Mapping[str, np.ndarray]) -> Running:
    """As a codec is run that nobody has exported."""
    tensors = [torch.from_numpy(value) for value in inputs.values()]

    def run() -> None:
        with torch.inference_mode():
            graph(*tensors)

    return run


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def providers() -> tuple[str, ...]:
    """The CPU, and CUDA where onnxruntime can really use it."""
    import onnxruntime

    found = ["CPUExecutionProvider"]
    if (
        torch.cuda.is_available()
        and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    ):
        found.append("CUDAExecutionProvider")
    return tuple(found)


def device_name(provider: str) -> str:
    """The device that the provider runs on."""
    if provider.startswith("CUDA"):
        return torch.cuda.get_device_name(0)
    return cpu_name()


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _spread(values: np.ndarray) -> dict[str, float]:
    median, p10, p90 = np.percentile(values, [50, 10, 90])
    return {"median": float(median), "p10": float(p10), "p90": float(p90)}
