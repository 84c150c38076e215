"""Measured times of single layers, by kind and channel counts, kept between runs.

What has been measured once on a device, with a runtime, its version, a precision and a number of
threads is read from a cache folder: $LEANVC_CACHE, or leanvc in the user's cache folder.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import torch

from lvc.files import atomic_write
from lvc.runtimes import Setting
from prune.measure.latency import device_name
from prune.measure.layer_graphs import can_chain, graph_inputs, layer_graph
from prune.measure.layer_kinds import LayerKind

WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Channel counts that are measured; between them times are interpolated."""
RUNS = 5
METHOD = 2
"""Raised when layers are run or timed in another way, so that older times are not taken."""
Timer = Callable[[LayerKind, int, int], float]
"""Milliseconds of one layer of a kind at so many inputs and outputs."""
Widths = tuple[int, int]
Table = tuple[list[int], list[int], list[list[float]]]
"""Input counts, output counts, and times: a row for each input count."""


@dataclass(frozen=True)
class Machine:
    """The setting that times are true of."""

    device: str
    runtime: str
    precision: str
    threads: int


class LayerTimes:
    """Times of layers on one machine: known ones, and others measured by `timer` when asked for.

    `file`: where they are kept; None: nowhere. One that cannot be read counts as empty.
    """

    def __init__(self, machine: Machine, timer: Timer, file: Path | None = None) -> None:
        self.machine, self.timer, self.file = machine, timer, file
        self.known: dict[LayerKind, dict[Widths, float]] = {}
        self.measured = 0
        """The number of times measured just now."""
        if file is not None:
            with suppress(OSError, ValueError, TypeError, KeyError):
                self._read(json.loads(file.read_text(encoding="utf-8")))

    def milliseconds(self, kind: LayerKind, inputs: int, outputs: int) -> float:
        """The kind of a layer. Those that can follow on each other are the same both ways."""
        if can_chain(kind):
            inputs, outputs = sorted((inputs, outputs))
        times = self.known.setdefault(kind, {})
        if (inputs, outputs) not in times:
            times[inputs, outputs] = self.timer(kind, inputs, outputs)
            self.measured += 1
        return times[inputs, outputs]

    def table(self, kind: LayerKind, inputs: int, outputs: int) -> Table:
        """Milliseconds up to these counts."""
        ins, outs = grid(inputs), grid(outputs)
        if kind.operator in ("pass", "warp"):
            ins = outs = sorted({min(8, inputs), inputs})  # they go by the bytes
        if kind.per_channel():
            return ins, [outputs], [[self.milliseconds(kind, n, n)] for n in ins]
        return ins, outs, [[self.milliseconds(kind, i, o) for o in outs] for i in ins]

    def save(self, file: Path | None = None) -> None:
        """To `file`, or to where they are kept; a cache that cannot be written is no fault."""
        content = {
            "machine": asdict(self.machine),
            "times": [
                [*astuple(kind), *widths, ms]
                for kind, times in sorted(self.known.items())
                for widths, ms in sorted(times.items())
            ],
        }
        if file is not None:
            atomic_write(file, json.dumps(content) + "\n")
        elif self.file is not None and self.measured:
            with suppress(OSError):
                self.file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(self.file, json.dumps(content) + "\n")

    def _read(self, content: dict) -> None:
        found: dict[LayerKind, dict[Widths, float]] = {}
        if content["machine"] != asdict(self.machine):
            return
        for operator, *numbers in content["times"]:
            kernel, stride, height, width, groups, inputs, outputs = map(int, numbers[:-1])
            kind = LayerKind(str(operator), kernel, stride, height, width, groups)
            found.setdefault(kind, {})[inputs, outputs] = float(numbers[-1])
        self.known = found


def grid(most: int) -> list[int]:
    """The counts to measure of a layer that has `most` channels."""
    return [n for n in WIDTHS if n < most] + [most]


def layer_times(setting: Setting) -> LayerTimes:
    """Times on this machine with this runtime, measured where they are not in the cache."""
    machine = Machine(
        device_name(setting.provider), setting.version, setting.precision, setting.threads
    )
    name = hashlib.sha256(repr((METHOD, astuple(machine))).encode()).hexdigest()[:16]
    return LayerTimes(machine, _timer(setting), cache_folder() / f"{name}.json")


def cache_folder() -> Path:
    """Where times are kept between runs."""
    if chosen := os.environ.get("LEANVC_CACHE"):
        return Path(chosen) / "layer_times"
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "leanvc" / "layer_times"


def _timer(setting: Setting) -> Timer:
    def milliseconds(kind: LayerKind, inputs: int, outputs: int) -> float:
        model, layers = layer_graph(kind, inputs, outputs)
        given = graph_inputs(kind, inputs)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.onnx"
            path.write_bytes(model.SerializeToString())
            graph = setting.open(path)
            graph.run(given)
            times = [_seconds(lambda: graph.run(given)) for _ in range(RUNS)]
        torch.set_flush_denormal(False)
        return best(times) * 1000 / layers

    return milliseconds


def best(seconds: Sequence[float]) -> float:
    """The least: whatever else a machine does makes a layer slower, nothing makes it faster."""
    return min(seconds)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
