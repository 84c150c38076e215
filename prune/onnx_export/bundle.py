"""The decoder as a bundle of ONNX graphs: `python -m prune.export CHECKPOINT FOLDER`.

One .onnx file for each decoder graph (the receiver is cut where it has to read bits), and
bundle.json with the wiring: what every graph is fed with, what it yields, hashes, rate points.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional as F

from lvc.bundle import BUNDLE, ENTROPY, FORMAT, file_hash, session
from lvc.files import atomic_write, replacing
from lvc.levels import FORMAT as LEVELS_FORMAT
from lvc.levels import LEVELS
from lvc.steps import Step
from prune.onnx_export.deformable import onnx_translations
from prune.onnx_export.refusal import explained
from vcodecs import DecoderGraph, UserError, VideoCodec
from vcodecs.coding import can_code, entropy_of, identity
from vcodecs.contract import WaveGraph
from vcodecs.deform import Operator, computed_by, has_deformable
from vcodecs.layers import fold

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference between torch and onnxruntime, relative to the tensor's largest value."""
SMOOTH = 16
Case = tuple[torch.nn.Module, dict[str, np.ndarray]]
"""A module to export, and inputs to try it with."""
LARGEST = 128  # frames of dynamic bundles: up to 128 blocks, 8192 pixels of 64, a side


@dataclass(frozen=True)
class Size:
    """Frame size of an export. With `dynamic` it is just the size that is traced."""

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
    # A side that is one block would be traced as a constant.
    least = 2 * codec.multiple if size.dynamic else codec.multiple
    graphs = folded.decoder_graphs(max(size.height, least), max(size.width, least))
    worst = 0.0
    entries = []
    for graph in graphs:
        path = folder / f"{graph.name}.onnx"
        with replacing(path) as temporary, explained(graph.name):
            with computed_by(folded, deformable):
                _export_graph(graph, temporary, size.dynamic)
            worst = max(worst, _check(graph.name, temporary, _cases(folded, graph.name, size)))
        entries.append(_entry(graph, path))
    if can_code(codec):
        entries += [_export_wave(folded, wave, folder) for wave in folded.coding().waves]
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


def _write_onnx(
    module: torch.nn.Module,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    shapes: Sequence[Mapping[int, object]] | None,
    path: Path,
) -> None:
    """Trace `module` on inputs by name; `shapes`: the dimensions of each that are dynamic."""
    with _silence():
        program = torch.onnx.export(
            module,
            tuple(torch.from_numpy(value) for value in inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            # The module takes any number of inputs, so their shapes are those of one argument.
            dynamic_shapes=None if shapes is None else (shapes,),
            verbose=False,
            custom_translation_table=onnx_translations(),
        )
    assert program is not None
    program.save(path)


def _export_graph(graph: DecoderGraph, path: Path, dynamic: bool) -> None:
    shapes = tuple(
        _dynamic_shape(spec.stride, graph.codec.multiple) for spec in graph.inputs.values()
    )
    _write_onnx(graph, example_inputs(graph), graph.outputs, shapes if dynamic else None, path)


def _dynamic_shape(stride: int, multiple: int) -> dict[int, object]:
    """Sides as multiples of one pair of dimensions, so that all inputs of a graph agree."""
    if stride == 0:
        return {}  # one number a channel, at any size
    factor = multiple // stride
    sides = [Dim("h", min=1, max=LARGEST), Dim("w", min=1, max=LARGEST)]
    return {2 + i: side if factor == 1 else factor * side for i, side in enumerate(sides)}


def _cases(folded: VideoCodec, name: str, size: Size) -> Iterator[Case]:
    """A graph at the traced size and, where dynamic, at another."""
    sizes = [(size.height, size.width)]
    if size.dynamic:
        sizes.append((size.height + folded.multiple, max(folded.multiple, size.width // 2)))
    for sides in sizes:
        graph = next(graph for graph in folded.decoder_graphs(*sides) if graph.name == name)
        yield graph, example_inputs(graph, seed=1)


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


def _export_wave(codec: VideoCodec, wave: WaveGraph, folder: Path) -> dict:
    """The graph of single positions, as many at once as there are; checked as all others."""
    path = folder / f"{wave.name}.onnx"
    generator = np.random.default_rng(1)

    def inputs(count: int) -> dict[str, np.ndarray]:
        sides = {name: (3, 5) if name.endswith("_patch") else (1, 1) for name in wave.inputs}
        return {
            name: generator.normal(0, 2, (count, channels, *sides[name])).astype(np.float32)
            for name, channels in wave.inputs.items()
        }

    module = _Wave(codec, wave)
    with replacing(path) as temporary, explained(wave.name):
        shapes = tuple({0: Dim("n", min=1, max=1 << 16)} for _ in wave.inputs)
        _write_onnx(module, inputs(3), wave.outputs, shapes, temporary)
        _check(wave.name, temporary, [(module, inputs(count)) for count in (3, 1, 40)])
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


@contextlib.contextmanager
def _silence():
    """The exporter prints its progress and notes to its own developers: keep them back."""
    names = ("torch.onnx", "torch.fx", "torch.export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
