"""Distances between a student's features and its teacher's."""

from torch import Tensor
from torch.nn import functional as F


def distortion(student: Tensor, teacher: Tensor) -> Tensor:
    """Scalar in [0, 4]: squared distance of the features (N, C, H, W), each scaled to unit length.

    The length is taken over channels at every position, so that a tap's loss depends on the
    direction of its features and not on their magnitude (Peng et al., PCS 2024, section III).
    """
    student = F.normalize(student.float(), dim=1)
    teacher = F.normalize(teacher.float(), dim=1)
    return (student - teacher).square().sum(1).mean()
