"""One kind of layer as an ONNX graph of its own, to be timed."""

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from prune.measure.layer_kinds import LayerKind

OPSET = 20
CHAIN = 4
"""Layers in a graph where one can follow on another: runtimes change the layout of tensors at a
graph's ends, which a layer among others does not pay for."""


def layer_graph(kind: LayerKind, inputs: int, outputs: int) -> tuple[onnx.ModelProto, int]:
    """A model of input `x` (1, inputs, height, width), and how many such layers it holds.

    In a chain the widths take turns: the time of a layer is then the mean of both directions.
    """
    made = _Graph()
    layers = CHAIN if can_chain(kind) else 1
    name = "x"
    for i in range(layers):
        widths = (inputs, outputs) if i % 2 == 0 else (outputs, inputs)
        name = made.layer(kind, name, *widths)
    given = [("x", (1, inputs, kind.height, kind.width))]
    if kind.operator == "warp":
        given.append(("grid", (1, kind.height, kind.width, 2)))
    if kind.operator == "deform":
        offsets = 2 * kind.kernel**2 * kind.groups
        given.append(("offsets", (1, offsets, kind.height, kind.width)))
    graph = helper.make_graph(
        made.nodes,
        "layer",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in given],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"])],
        made.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    return model, layers


def can_chain(kind: LayerKind) -> bool:
    return kind.operator in ("conv", "norm", "pass") and kind.stride == 1


def graph_inputs(kind: LayerKind, inputs: int) -> dict[str, np.ndarray]:
    """Numbers for a graph's inputs: a warp and offsets of less than a pixel."""
    generator = np.random.default_rng(0)
    size = kind.height, kind.width
    given = {"x": generator.uniform(-1, 1, (1, inputs, *size)).astype(np.float32)}
    if kind.operator == "warp":
        rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
        grid = np.stack(np.meshgrid(columns, rows), -1)[None]
        given["grid"] = (grid + 0.4 / max(size)).astype(np.float32)
    if kind.operator == "deform":
        offsets = 2 * kind.kernel**2 * kind.groups
        given["offsets"] = generator.uniform(-1, 1, (1, offsets, *size)).astype(np.float32)
    return given


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def layer(self, kind: LayerKind, x: str, inputs: int, outputs: int) -> str:
        """Append one layer that reads `x`; returns what it makes."""
        kernel, stride = kind.kernel, kind.stride
        pads = [kernel // 2] * 4
        if kind.operator == "warp":
            return self.node("GridSample", [x, "grid"], padding_mode="border", align_corners=1)
        if kind.operator == "pass":
            return self.node("Mul", [x, self.weight((1, inputs, 1, 1))])
        if kind.operator == "norm":
            squared = self.node("Mul", [x, x])
            gamma = self.weight((inputs, inputs, 1, 1), positive=True)
            beta = self.weight((inputs,), positive=True)
            norm = self.node("Sqrt", [self.node("Conv", [squared, gamma, beta])])
            return self.node("Div", [x, norm])
        if kind.operator == "deform":
            weight = self.weight((outputs, inputs, kernel, kernel))
            return self.node("DeformConv", [x, weight, "offsets"], pads=pads,
                             offset_group=kind.groups)  # fmt: skip
        if kind.operator == "transposed":
            shape = (inputs, outputs // kind.groups, kernel, kernel)
            return self.node("ConvTranspose", [x, self.weight(shape), self.weight((outputs,))],
                             strides=[stride] * 2, pads=pads, group=kind.groups,
                             output_padding=[stride - 1] * 2)  # fmt: skip
        factor = stride if kind.operator == "subpel" else 1
        made = outputs * factor**2
        weights = self.weight((made, inputs // kind.groups, kernel, kernel)), self.weight((made,))
        strides = [stride if kind.operator == "conv" else 1] * 2
        result = self.node("Conv", [x, *weights], strides=strides, pads=pads, group=kind.groups)
        if kind.operator == "subpel":
            result = self.node("DepthToSpace", [result], blocksize=factor, mode="CRD")
        return result

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"made_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, shape: tuple[int, ...], positive: bool = False) -> str:
        """Numbers of a size at which a chain's values neither grow nor vanish."""
        generator = np.random.default_rng(len(self.weights))
        bound = math.sqrt(3 / max(1, math.prod(shape[1:])))
        low = bound / 2 if positive else -bound
        values = generator.uniform(low, bound, shape).astype(np.float32)
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name
