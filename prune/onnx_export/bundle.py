"""The decoder as a bundle of ONNX graphs: `python -m prune.export CHECKPOINT FOLDER`.

One .onnx file for each decoder graph (the receiver is cut where it has to read bits), and
bundle.json with the wiring: what every graph is fed with, what it yields, hashes, rate points.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from lvc.bundle import BUNDLE, ENTROPY, FORMAT, file_hash, session
from lvc.files import atomic_write, replacing
from lvc.levels import FORMAT as LEVELS_FORMAT
from lvc.levels import LEVELS
from lvc.steps import Step
from prune.onnx_export.refusal import explained
from prune.onnx_export.tracing import OPSET, Part, Side, traced
from vcodecs import DecoderGraph, UserError, VideoCodec
from vcodecs.coding import can_code, entropy_of, identity
from vcodecs.contract import WaveGraph
from vcodecs.deform import Operator, computed_by, has_deformable
from vcodecs.layers import fold

TOLERANCE = 1e-4
"""Largest difference between torch and onnxruntime, relative to the tensor's largest value."""
SMOOTH = 16
Case = tuple[torch.nn.Module, dict[str, np.ndarray]]
"""A module that was exported, and inputs to try it with."""
LARGEST = 128  # frames of dynamic bundles: up to 128 blocks, 8192 pixels of 64, a side


@dataclass(frozen=True)
class Size:
    """Frame size of an export. With `dynamic` it is just the size that is checked first."""

    height: int
    width: int
    dynamic: bool = True


def export_bundle(
    codec: VideoCodec, folder: str | Path, size: Size, deformable: Operator = "DeformConv"
) -> float:
    """Write the bundle to `folder`; returns the largest relative difference to torch.

    Of a codec of several levels it is a bundle for each, and a list of them. `deformable`: what
    deformable convolutions become. Torch computes them by its own operator.
    UserError when a graph cannot be exported, or onnxruntime and torch differ by more than 1e-4 in
    any output: then nothing that claims to be a bundle is left behind.
    """
    folder = Path(folder)
    if codec.levels > 1:
        return _export_levels(codec, folder, size, deformable)
    # Until it is whole again there is no bundle here, whatever an earlier export left.
    (folder / BUNDLE).unlink(missing_ok=True)
    folded = fold(codec).cpu()
    waves = folded.coding().waves if can_code(codec) else ()
    graphs = folded.decoder_graphs(size.height, size.width)
    parts = [_graph_part(graph, size.dynamic) for graph in _to_trace(folded, size)]
    parts += [_wave_part(folded, wave) for wave in waves]
    with computed_by(folded, deformable):
        models = traced(parts)
    entries, worst = [], 0.0
    for graph in graphs:
        path = folder / f"{graph.name}.onnx"
        differs = _write(models.pop(graph.name), path, _cases(folded, graph.name, size))
        worst = max(worst, differs)
        entries.append(_entry(graph, path))
    for wave in waves:
        path = folder / f"{wave.name}.onnx"
        _write(models.pop(wave.name), path, _wave_cases(folded, wave))
        entries.append(_wave_entry(wave, path))
    bundle = {
        "format": FORMAT,
        "codec": codec.name,
        "preset": codec.preset,
        "rates": list(codec.rates()),
        "opset": OPSET,
        **({"deformable": deformable} if has_deformable(codec) else {}),
        "size_multiple": codec.multiple,
        "size": None if size.dynamic else [graphs[0].size[0], graphs[0].size[1]],
        "graphs": entries,
        "coding": _coding(codec, folder),
    }
    atomic_write(folder / BUNDLE, json.dumps(bundle, indent=2) + "\n")
    return worst


def level_folder(level: int) -> str:
    """Where the bundle of a level is, in the folder of them all."""
    return f"level_{level}"


def _export_levels(codec: VideoCodec, folder: Path, size: Size, deformable: Operator) -> float:
    """A bundle for each level of a codec that has several, and the list of them."""
    (folder / LEVELS).unlink(missing_ok=True)
    worst, listed = 0.0, []
    for level in range(codec.levels):
        name = level_folder(level)
        worst = max(worst, export_bundle(codec.at_level(level), folder / name, size, deformable))
        listed.append({"folder": name, "sha256": file_hash(folder / name / BUNDLE)})
    content = {"format": LEVELS_FORMAT, "weights": identity(codec), "levels": listed}
    atomic_write(folder / LEVELS, json.dumps(content, indent=2) + "\n")
    return worst


def example_inputs(graph: DecoderGraph, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the right shapes: whole numbers for latents, soft pictures and features.

    What is finer than the latents is drawn at 1/16 of the size and interpolated. Sampling at a
    position that is rounded to float32, a part of the width, would tell nothing of white noise:
    its neighbours differ by as much as there is.
    """
    generator = np.random.default_rng(seed)
    inputs = {}
    for name, shape in graph.input_shapes().items():
        if graph.inputs[name].stride == 0:
            inputs[name] = generator.uniform(0.5, 2, shape).astype(np.float32)
            continue
        if graph.inputs[name].stride >= SMOOTH:
            inputs[name] = np.round(generator.normal(0, 2, shape)).astype(np.float32)
            continue
        coarse = (*shape[:2], *(2 + side // SMOOTH for side in shape[2:]))
        low, high = (0, 1) if name == "reference" else (-4, 4)
        drawn = torch.from_numpy(generator.uniform(low, high, coarse).astype(np.float32))
        soft = F.interpolate(drawn, shape[2:], mode="bilinear", align_corners=True)
        inputs[name] = soft.numpy()
    return inputs


def _to_trace(codec: VideoCodec, size: Size) -> Sequence[DecoderGraph]:
    """Graphs of the size that is traced; a side of one block would become a constant."""
    if not size.dynamic:
        return codec.decoder_graphs(size.height, size.width)
    return codec.decoder_graphs(2 * codec.multiple, 2 * codec.multiple)


def _graph_part(graph: DecoderGraph, dynamic: bool) -> Part:
    sides = {name: _sides(spec.stride, graph.codec.multiple) for name, spec in graph.inputs.items()}
    return Part(graph.name, graph, graph.input_shapes(), graph.outputs, sides if dynamic else {})


def _sides(stride: int, multiple: int) -> dict[int, Side]:
    """Sides as multiples of one pair of numbers, so that all inputs of a graph agree."""
    if stride == 0:
        return {}  # one number a channel, at any size
    return {2: Side("h", multiple // stride, LARGEST), 3: Side("w", multiple // stride, LARGEST)}


def _cases(folded: VideoCodec, name: str, size: Size) -> Iterator[Case]:
    """A graph at the traced size and, where dynamic, at another."""
    sizes = [(size.height, size.width)]
    if size.dynamic:
        sizes.append((size.height + folded.multiple, max(folded.multiple, size.width // 2)))
    for sides in sizes:
        graph = next(graph for graph in folded.decoder_graphs(*sides) if graph.name == name)
        yield graph, example_inputs(graph, seed=1)


def _wave_cases(codec: VideoCodec, wave: WaveGraph) -> Iterator[Case]:
    return ((_Wave(codec, wave), _wave_inputs(wave, count)) for count in (3, 1, 40))


def _write(model: onnx.ModelProto, path: Path, cases: Iterable[Case]) -> float:
    """Write a graph and check it; returns its largest relative difference to torch."""
    with replacing(path) as temporary, explained(path.stem):
        temporary.write_bytes(model.SerializeToString())
        return _check(path.stem, temporary, cases)


def _check(name: str, path: Path, cases: Iterable[Case]) -> float:
    """torch against onnxruntime; UserError where they differ by more than the tolerance."""
    running, worst = session(path), 0.0
    for module, inputs in cases:
        with torch.no_grad():
            expected = module(*(torch.from_numpy(value) for value in inputs.values()))
        expected = (expected,) if isinstance(expected, Tensor) else expected
        worst = max(worst, _largest_difference(expected, running.run(None, inputs)))
    torch.set_flush_denormal(False)
    if not worst <= TOLERANCE:
        raise UserError(
            f"graph {name}: onnxruntime differs from torch by {worst:.2g} (relative; "
            f"allowed {TOLERANCE:g})"
        )
    return worst


def _largest_difference(expected: Sequence[Tensor], results: Sequence[np.ndarray]) -> float:
    differences = []
    for a, b in zip(expected, results, strict=True):
        scale = float(a.abs().max()) or 1.0
        with np.errstate(invalid="ignore"):
            differences.append(float(np.abs(a.numpy() - b).max()) / scale)
    # Of NaN and a number, max() returns whichever comes first: what is no number is endless here.
    return max(d if np.isfinite(d) else np.inf for d in differences)


def _entry(graph: DecoderGraph, path: Path) -> dict:
    return {
        "name": graph.name,
        "file": path.name,
        "sha256": file_hash(path),
        "inputs": {
            name: {"channels": spec.channels, "stride": spec.stride}
            for name, spec in graph.inputs.items()
        },
        "outputs": list(graph.outputs),
    }


def _wave_part(codec: VideoCodec, wave: WaveGraph) -> Part:
    """The graph of single positions, as many at once as there are."""
    shapes = {name: value.shape for name, value in _wave_inputs(wave, 3).items()}
    sides = {name: {0: Side("n", 1, 1 << 16)} for name in wave.inputs}
    return Part(wave.name, _Wave(codec, wave), shapes, wave.outputs, sides)


def _wave_inputs(wave: WaveGraph, count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(count)
    sides = {name: (3, 5) if name.endswith("_patch") else (1, 1) for name in wave.inputs}
    return {
        name: generator.normal(0, 2, (count, channels, *sides[name])).astype(np.float32)
        for name, channels in wave.inputs.items()
    }


def _wave_entry(wave: WaveGraph, path: Path) -> dict:
    return {
        "name": wave.name,
        "file": path.name,
        "sha256": file_hash(path),
        "inputs": {name: {"channels": channels} for name, channels in wave.inputs.items()},
        "outputs": list(wave.outputs),
        "positions": True,
    }


class _Wave(torch.nn.Module):
    def __init__(self, codec: VideoCodec, wave: WaveGraph) -> None:
        super().__init__()
        self.codec, self.wave = codec, wave

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.wave.function(self.codec, *inputs)


def _coding(codec: VideoCodec, folder: Path) -> dict | None:
    """A player's needs beside the graphs: the program, the tables, which weights it is of."""
    if not can_code(codec):
        return None
    path = folder / ENTROPY
    atomic_write(path, json.dumps(entropy_of(codec)) + "\n")
    return {
        "weights": identity(codec),
        "steps": [_step(step) for step in codec.coding().steps],
        "entropy": {"file": path.name, "sha256": file_hash(path)},
    }


def _step(step: Step) -> dict:
    """A step as JSON; `graphs` only where there are some, so that older players read the rest."""
    return {key: value for key, value in asdict(step).items() if key != "graphs" or value}
