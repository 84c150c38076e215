"""Distances between a student's features and its teacher's."""

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-12
"""Length that shorter features are scaled by."""


def distortion(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar in [0, 4]: squared distance of the features (N, C, H, W), each scaled to unit length.

    The length is taken over channels at every position, so that a tap's loss depends on the
    direction of its features and not on their magnitude (Peng et al., PCS 2024, section III).
    The teacher gets no gradient.
    """
    return _Distortion.apply(student.float(), teacher.detach().float())


class _Distortion(torch.autograd.Function):
    """With unit features u = s / |s| and v, L = mean |u - v|^2, and its gradient in closed form.

    Features are the largest tensors of a step. Left to autograd, the same takes 20 passes over them
    and keeps six more of their size; here it takes seven and keeps none beside the two themselves.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        lengths = [torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in (student, teacher)]
        scales = [length.clamp_min(SMALLEST) for length in lengths]
        # Clip by clip: what is only passed through then stays in the processor's cache.
        apart = (s.div(m).addcdiv_(t, n, value=-1)
                 for s, t, m, n in zip(student, teacher, *scales, strict=True))  # fmt: skip
        distance = torch.stack([torch.linalg.vector_norm(x, dim=0, keepdim=True) for x in apart])
        distance = distance.square_()
        # u . (u - v) = (|u|^2 - |v|^2 + |u - v|^2) / 2, where |u| = |v| = 1 but for tiny features.
        own, other = ((x / scale).square_() for x, scale in zip(lengths, scales, strict=True))
        along = (own - other + distance).div_(2)
        along *= lengths[0] > SMALLEST  # shorter ones are not scaled by their own length
        ctx.save_for_backward(student, teacher, along, *scales)
        return distance.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """dL/ds = 2 / positions * ((u - v) - u (u . (u - v))) / |s|."""
        student, teacher, along, own, other = ctx.saved_tensors
        weight = grad * (2 / own.numel()) / own
        found = student * (weight * (1 - along) / own)
        return found.addcmul_(teacher, weight / other, value=-1), None
