"""Latency of two decoders on a runtime: interleaved, paired, with spread."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvc.runtimes import Setting
from prune.measure.torch_ways import TorchWay
from prune.onnx_export.bundle import example_inputs
from vcodecs import DecoderGraph, VideoCodec

How = Setting | TorchWay
"""The way graphs are run: a runtime on a bundle, or torch on the codec itself."""
Opener = Callable[[DecoderGraph, Mapping[str, np.ndarray]], Callable[[], object]]
"""Makes a graph ready to run on these inputs."""


def compare_latency(
    dense: tuple[VideoCodec, Path],
    sparse: tuple[VideoCodec, Path],
    height: int,
    width: int,
    runs: int,
    threads: int | None = None,
    note: str = "",
    how: How = Setting(),  # noqa: B008 - it is frozen
) -> dict[str, Any]:
    """One row of the report's `latency`.

    `dense` and `sparse` are codecs with their bundle folders, which torch needs none of. A run is
    one pass through all decoder graphs of a P frame behind another; dense and sparse runs
    alternate, and which comes first too, so that what else the machine does hits both. `speedup`
    is the ratio within each pair. Reading bits is not in it, nor the repetition of the
    auto-regressive graphs by position: network time. `note` is shown beside the runtime. UserError
    where this machine lacks what `how` asks for.
    """
    threads = threads or os.cpu_count() or 1
    with torch_threads(threads):
        decoders = [Decoder(how, threads, *each, height, width) for each in (dense, sparse)]
        by_graph = [np.array(t) * 1000 for t in interleaved(decoders, runs)]
    dense_ms, sparse_ms = (t.sum(axis=1) for t in by_graph)
    provider = provider_of(how)
    return {
        "runtime": f"{how.version}, {note}" if note else how.version,
        "provider": provider,
        "threads": threads,
        "precision": how.precision,
        "height": decoders[0].size[0],
        "width": decoders[0].size[1],
        "runs": runs,
        "dense_ms": spread(dense_ms),
        "sparse_ms": spread(sparse_ms),
        "speedup": spread(dense_ms / sparse_ms),
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


def interleaved(decoders: Sequence["Decoder"], runs: int) -> list[list[np.ndarray]]:
    """Seconds by decoder, run and graph, behind a first run of each that does not count.

    Each goes first as often as the others.
    """
    for decoder in decoders:
        decoder.run()
    times: list[list[np.ndarray]] = [[] for _ in decoders]
    for i in range(runs):
        order = list(range(len(decoders)))
        first = i % len(order)
        for which in order[first:] + order[:first]:
            times[which].append(decoders[which].run())
    torch.set_flush_denormal(False)
    return times


class Decoder:
    """All graphs of a P frame behind another, ready to run on fixed inputs.

    `folder`: the codec's bundle, for a runtime.
    """

    def __init__(
        self, how: How, threads: int, codec: VideoCodec, folder: Path, height: int, width: int
    ) -> None:
        opened: Opener
        if isinstance(how, TorchWay):
            how.check()
            codec, opened = how.prepared(codec), how.open
        else:
            opened = _from_bundle(replace(how, threads=threads), folder)
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


def _from_bundle(setting: Setting, folder: Path) -> Opener:
    def opened(graph: DecoderGraph, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        running = setting.open(folder / f"{graph.name}.onnx")
        return lambda: running.run(inputs)

    return opened


def provider_of(how: How) -> str:
    """What runs it, by onnxruntime's words."""
    if isinstance(how, Setting):
        return how.provider
    return "CUDAExecutionProvider" if how.device == "cuda" else "CPUExecutionProvider"


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """torch computes with `count` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def providers() -> tuple[str, ...]:
    """Of onnxruntime: the CPU, and CUDA where it can really use it."""
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
    if provider.startswith(("CUDA", "Tensorrt")):
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


def spread(values: np.ndarray) -> dict[str, float]:
    """Median, p10 and p90."""
    median, p10, p90 = np.percentile(values, [50, 10, 90])
    return {"median": float(median), "p10": float(p10), "p90": float(p90)}
