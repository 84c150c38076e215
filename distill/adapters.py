"""Learnt 1x1 convolutions between features of a student and of a teacher of other widths.

A student that is no subset of its teacher has no channel in common with it. What its block has made
is compared with the teacher's behind a linear map of channels, which is trained along and then
thrown away (Romero et al., FitNets, ICLR 2015).
"""

from collections.abc import Sequence

import torch
from torch import nn

from distill.taps import find_taps, widths
from vcodecs import UserError, VideoCodec

Adapters = dict[str, nn.Conv2d]
"""By tap the map from the student's channels to the teacher's."""


def common_taps(student: VideoCodec, teacher: VideoCodec) -> tuple[str, ...]:
    """Blocks that both decoders have by the same name, in the student's order.

    UserError where there are none.
    """
    theirs = set(find_taps(teacher))
    names = tuple(name for name in find_taps(student) if name in theirs)
    if not names:
        raise UserError(
            f"{student.name} {student.preset} and {teacher.name} {teacher.preset} have no block in "
            "common: a student can only learn from a codec of its own family"
        )
    return names


def make_adapters(student: VideoCodec, teacher: VideoCodec, names: Sequence[str]) -> Adapters:
    """An adapter for each tap: the identity where both sides are as wide, else drawn.

    The same in every process of a training, and on the student's device.
    """
    generator = torch.Generator().manual_seed(0)
    own, theirs = widths(student, names), widths(teacher, names)
    device = next(student.parameters()).device
    return {name: _adapter(own[name], theirs[name], generator).to(device) for name in names}


def _adapter(inputs: int, outputs: int, generator: torch.Generator) -> nn.Conv2d:
    adapter = nn.Conv2d(inputs, outputs, 1, bias=False)
    if inputs == outputs:
        nn.init.dirac_(adapter.weight)
    else:
        nn.init.normal_(adapter.weight, 0, inputs**-0.5, generator=generator)
    return adapter
