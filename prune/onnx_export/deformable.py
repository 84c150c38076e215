"""Deformable convolutions in ONNX, whose exporter does not know torchvision's."""

from collections.abc import Callable

import torch
import torchvision  # noqa: F401 - importing it is what defines the operator


def onnx_translations() -> dict[Callable, Callable]:
    """For `torch.onnx.export(custom_translation_table=...)`: DeformConv, of opset 19."""
    from onnxscript import opset20 as op

    def deform_conv(x, weight, offset, mask, bias, *numbers):  # noqa: ANN001
        *sides, groups, offset_groups, use_mask = numbers
        strides, padding, dilations = (list(sides[i : i + 2]) for i in (0, 2, 4))
        return op.DeformConv(
            x,
            weight,
            offset,
            bias,
            mask if use_mask else None,
            strides=strides,
            pads=padding * 2,
            dilations=dilations,
            group=groups,
            offset_group=offset_groups,
        )

    return {torch.ops.torchvision.deform_conv2d.default: deform_conv}
