"""Distillation set up for a student, masked or shrunk: which blocks, which channels of them."""

import copy

import torch
from torch import Tensor

from distill import AdaptiveWeights, Distiller, Tap, common_taps, find_taps, make_adapters
from prune.groups.channels import Channels
from prune.groups.trace import CONVOLUTIONS
from prune.groups.weights import convolution
from prune.recipe.schema import DistillSection
from vcodecs import VideoCodec


def distillers(
    section: DistillSection,
    student: VideoCodec,
    teacher: VideoCodec,
    channels: Channels,
    kept: dict[str, list[int]] | None,
    larger: VideoCodec | None = None,
) -> list[Distiller]:
    """Companions that distil a copy of `teacher` into `student`; none where the recipe says so.

    `kept`: the channels of a shrunk student by group; None of a masked one. `larger`: in place of
    `teacher`, a codec of the same family at other widths, compared through learnt adapters; it is
    not copied, since it may be very large, but frozen.
    """
    if section.source == "none" or section.weight == 0:
        return []
    device = next(student.parameters()).device
    weights = AdaptiveWeights(section.momentum, section.adaptive)
    if larger is not None:
        larger = larger.to(device, memory_format=torch.channels_last)
        names = common_taps(student, larger)
        adapters = make_adapters(student, larger, names)
        taps = [Tap(name) for name in names]
        return [Distiller(student, larger, taps, "network", section.weight, weights, adapters)]
    # As the trainer has the student: see there.
    teacher = copy.deepcopy(teacher).to(device, memory_format=torch.channels_last)
    taps = [_tap(channels, teacher, name, kept) for name in find_taps(teacher)]
    return [Distiller(student, teacher, taps, section.source, section.weight, weights)]


def _tap(
    channels: Channels, teacher: VideoCodec, name: str, kept: dict[str, list[int]] | None
) -> Tap:
    """The tap with the channels that a shrunk student still has at its two ends."""
    if kept is None:
        return Tap(name)
    block = teacher.get_submodule(name)
    layers = [
        f"{name}.{key}" if key else name
        for key, layer in block.named_modules()
        if isinstance(layer, CONVOLUTIONS)
    ]
    known = _layers_in_groups(channels)
    layers = [layer for layer in layers if layer in known] or [name]
    first, last = layers[0], layers[-1]
    ins = convolution(teacher, first).in_channels
    return Tap(
        name,
        _left(channels, kept, first, "in", ins),
        _left(channels, kept, last, "out", _outputs(teacher, last)),
    )


def _layers_in_groups(channels: Channels) -> set[str]:
    known = {m.layer for group in channels.groups for m in group.members}
    return known | set(channels.fixed)


def _outputs(codec: VideoCodec, name: str) -> int:
    layer = codec.get_submodule(name)
    factor = getattr(layer, "factor", 1)
    return convolution(codec, name).out_channels // factor**2


def _left(
    channels: Channels, kept: dict[str, list[int]], layer: str, side: str, width: int
) -> Tensor | None:
    """Indices of the dense layer's channels on one side that are not removed; None for all."""
    gone: set[int] = set()
    for group in channels.groups:
        removed = set(range(group.size)) - set(kept[group.name])
        for member in group.members:
            if member.layer == layer and member.side == side:
                gone.update(i for c in removed for i in member.channels[c])
    return torch.tensor([i for i in range(width) if i not in gone]) if gone else None
