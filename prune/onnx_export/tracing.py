"""The graphs of a decoder as ONNX models, traced by torch's exporter in one go.

The exporter makes its registry and its table of decompositions anew at every call, and much else;
one call for all graphs takes about half the processor time of a call for each.
"""

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from prune.onnx_export.deformable import onnx_translations
from prune.onnx_export.refusal import KEPT, explained

OPSET = 20


@dataclass(frozen=True)
class Side:
    """A side of inputs that is not fixed: `factor` times a whole number from 1 to `most`.

    Sides of one `name` within a graph are multiples of the same number.
    """

    name: str
    factor: int
    most: int


@dataclass(frozen=True)
class Part:
    """A module to trace: tensors in, one for each of `inputs`, a tensor or a tuple of them out.

    `inputs`: shapes by name. `sides`: by input, which of its dimensions are not fixed.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Sequence[int]]
    outputs: Sequence[str]
    sides: Mapping[str, Mapping[int, Side]]


def traced(parts: Sequence[Part]) -> dict[str, onnx.ModelProto]:
    """The models of all parts by name. UserError, which names the graph, where one cannot be.

    Where they cannot be traced together, each is by itself: then it is known which one fails.
    """
    try:
        with _silence():
            return _traced(parts)
    except KEPT:
        raise
    except Exception:  # the exporter lets anything through that a codec's code raises
        models: dict[str, onnx.ModelProto] = {}
        for part in parts:
            with explained(part.name), _silence():
                models |= _traced([part])
        return models


def _traced(parts: Sequence[Part]) -> dict[str, onnx.ModelProto]:
    program = torch.onnx.export(
        _Together(parts),
        # Only shapes are looked at; memory that nobody writes to is none.
        tuple(torch.empty(tuple(s)) for part in parts for s in part.inputs.values()),
        dynamo=True,
        opset_version=OPSET,
        input_names=[_full(part, name) for part in parts for name in part.inputs],
        output_names=[_full(part, name) for part in parts for name in part.outputs],
        # The module takes any number of inputs, so their shapes are those of one argument.
        dynamic_shapes=(_dynamic_shapes(parts),) if any(p.sides for p in parts) else None,
        verbose=False,
        custom_translation_table=onnx_translations(),
    )
    assert program is not None
    extractor = onnx.utils.Extractor(program.model_proto)
    return {part.name: _cut_out(extractor, part) for part in parts}


def _dynamic_shapes(parts: Sequence[Part]) -> tuple[dict[int, object], ...]:
    """By input. Each part has dimensions of its own, or its graph would read another's inputs."""
    shapes = []
    for number, part in enumerate(parts):
        known: dict[str, Dim] = {}
        for name in part.inputs:
            shape: dict[int, object] = {}
            for axis, side in part.sides.get(name, {}).items():
                dim = known.setdefault(side.name, Dim(f"{side.name}{number}", min=1, max=side.most))
                shape[axis] = dim if side.factor == 1 else side.factor * dim
            shapes.append(shape)
    return tuple(shapes)


class _Together(nn.Module):
    """All parts side by side: their inputs one after the other, and then their outputs."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part.module for part in parts)
        self.counts = [len(part.inputs) for part in parts]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        made: list[Tensor] = []
        left = iter(inputs)
        for module, count in zip(self.parts, self.counts, strict=True):
            results = module(*itertools.islice(left, count))
            made += [results] if isinstance(results, Tensor) else results
        return tuple(made)


def _full(part: Part, name: str) -> str:
    return f"{part.name}.{name}"


def _cut_out(extractor: onnx.utils.Extractor, part: Part) -> onnx.ModelProto:
    """The part's own model, its inputs and outputs by their own names."""
    names = {_full(part, name): name for name in (*part.inputs, *part.outputs)}
    model = extractor.extract_model(
        [_full(part, name) for name in part.inputs], [_full(part, name) for name in part.outputs]
    )
    graph = model.graph
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
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
