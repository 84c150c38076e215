"""Counting MACs in ONNX graphs: the cross-check of torch's counter."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import shape_inference
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from prune.measure.deformable import deformable_macs
from vcodecs import UserError


def bundle_macs(folder: Path, graphs: Iterable[str], size: Mapping[str, list[int]]) -> int:
    """MACs of all Conv, ConvTranspose, DeformConv, MatMul and Gemm nodes of the named graphs.

    `size`: by graph input name its concrete shape.
    """
    return sum(graph_macs(folder / f"{name}.onnx", size) for name in graphs)


def graph_macs(path: Path, size: Mapping[str, list[int]]) -> int:
    """MACs of one file with its inputs at the given shapes. UserError where a shape is unknown."""
    model = onnx.load(path)
    for value in model.graph.input:
        for dim, side in zip(value.type.tensor_type.shape.dim, size[value.name], strict=True):
            dim.dim_value = side
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    try:
        return _macs(inferred)
    except KeyError:
        # Sizes that a graph computes of its inputs' sizes, in more steps than onnx follows.
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True)
    try:
        return _macs(inferred)
    except KeyError as error:
        raise UserError(
            f"{path}: the shape of {error} is not known, so its MACs are not"
        ) from error


def _macs(inferred: onnx.ModelProto) -> int:
    """KeyError where a shape is unknown: a layer of unknown size must not pass for a free one."""
    graph = inferred.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.value_info, *graph.output]
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    known = {name: shape for name, shape in shapes.items() if 0 not in shape}
    return sum(_node_macs(node, known) for node in graph.node)


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    if node.op_type == "Conv":
        weight, output = shapes[node.input[1]], shapes[node.output[0]]
        # weight is (outputs, inputs / groups, kernel): every output position uses all of it.
        return int(np.prod(weight)) * int(np.prod(output[2:])) * output[0]
    if node.op_type == "ConvTranspose":
        weight, given = shapes[node.input[1]], shapes[node.input[0]]
        return int(np.prod(weight)) * int(np.prod(given[2:])) * given[0]
    if node.op_type == "DeformConv":
        given, offsets = shapes[node.input[0]], shapes[node.input[2]]
        masked = len(node.input) > 4 and bool(node.input[4])
        positions = given[0] * offsets[2] * offsets[3]
        return deformable_macs(positions, given[1], shapes[node.input[1]], masked)
    if node.op_type in ("MatMul", "Gemm"):
        return int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
    return 0
