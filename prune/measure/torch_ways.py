"""torch's own ways of running a decoder's graphs: as it comes, and as it is fast."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from vcodecs import DecoderGraph, UserError, VideoCodec

Spelling = Literal[
    "eager",
    "eager bf16",
    "channels-last",
    "channels-last bf16",
    "compiled",
    "compiled bf16",
    "cuda eager",
    "cuda eager fp16",
    "cuda graphs",
    "cuda graphs fp16",
]
"""As recipes and benchmarks write a way; without a precision it is fp32."""
WARM_UP = 3
"""Runs before a CUDA graph is captured, in which kernels are chosen."""


@dataclass(frozen=True)
class TorchWay:
    """`mode`: eager, channels-last, compiled or graphs (CUDA graphs); `device`: cpu or cuda.

    A precision below fp32 is torch's autocast: coordinates of warps stay float32.
    """

    mode: str = "eager"
    precision: str = "fp32"
    device: str = "cpu"

    @property
    def version(self) -> str:
        place = "CUDA " if self.device == "cuda" else ""
        return f"torch {torch.__version__.split('+')[0]}, {place}{self.mode}"

    def check(self) -> None:
        """UserError where this machine cannot run so."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError(f"{self.version}: there is no GPU here that torch can use")

    def prepared(self, codec: VideoCodec) -> VideoCodec:
        """A codec whose graphs can be opened; a copy where it has to be changed."""
        if self.device == "cpu" and self.mode not in ("channels-last", "compiled"):
            return codec
        moved = copy.deepcopy(codec).to(self.device)
        return moved.to(memory_format=torch.channels_last)

    def open(self, graph: DecoderGraph, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """`graph`, of a codec that is `prepared`, ready to run on these inputs."""
        tensors = [torch.from_numpy(value).to(self.device) for value in inputs.values()]
        if self.mode != "eager":
            tensors = [t.contiguous(memory_format=torch.channels_last) for t in tensors]
        run: Callable[..., object] = graph
        if self.mode == "compiled":
            run = torch.compile(graph, dynamic=False)

        def once() -> object:
            with torch.inference_mode(), self._cast():
                return run(*tensors)

        if self.device != "cuda":
            return once
        return _replayed(once) if self.mode == "graphs" else _waited_for(once)

    def _cast(self) -> torch.autocast:
        kind = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device, kind, enabled=self.precision != "fp32")


def way_of(spelling: str) -> TorchWay:
    """The way that is written so (`Spelling`)."""
    assert spelling in get_args(Spelling), spelling
    words = spelling.split()
    device = "cuda" if words[0] == "cuda" else "cpu"
    words = [word for word in words if word != "cuda"]
    return TorchWay(words[0], words[1] if len(words) > 1 else "fp32", device)


def _waited_for(run: Callable[[], object]) -> Callable[[], object]:
    def waiting() -> None:
        run()
        torch.cuda.synchronize()

    return waiting


def _replayed(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a CUDA graph: its kernels are started all at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = run()  # written anew by each replay, for as long as they are held

    def replay() -> object:
        captured.replay()
        torch.cuda.synchronize()
        return results

    return replay
