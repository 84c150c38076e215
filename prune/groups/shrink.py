"""From masks to smaller layers, and the proof that nothing else changed."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from prune.groups.channels import Channels
from prune.groups.find import find_groups
from prune.groups.grouping import sort_out
from prune.groups.removal import remove_from
from prune.groups.trace import trace
from prune.groups.weights import zero_channels
from vcodecs import CodedFrame, Reference, UserError, VideoCodec

TOLERANCE = 1e-5
"""Largest relative difference between masked and shrunk codec."""


def masked_copy(codec: VideoCodec, channels: Channels, kept: dict[str, list[int]]) -> VideoCodec:
    """A codec of the old shape whose removed channels are zero."""
    masked = copy.deepcopy(codec)
    for group in channels.groups:
        zero_channels(masked, group, kept[group.name])
    return masked.eval()


def shrunk_copy(
    codec: VideoCodec, kept: dict[str, list[int]], channels: Channels | None = None
) -> VideoCodec:
    """A codec without the removed channels; arguments as of `remove`.

    `codec` has to be free of parametrisations.
    """
    shrunk = copy.deepcopy(codec)
    remove(shrunk, kept, channels)
    return shrunk.eval()


def remove(
    codec: VideoCodec, kept: Mapping[str, Sequence[int]], channels: Channels | None = None
) -> None:
    """Physically remove, in place, every channel that `kept` (by group name) does not list.

    `channels`: the codec's groups, where they are known; finding them again takes long.
    Errors: UserError when a name is no group of this codec or an index is out of range.
    """
    known = channels or _groups_of(codec)
    groups = {group.name: group for group in known.groups}
    for name, indices in kept.items():
        group = groups.get(name)
        if group is None or any(not 0 <= i < group.size for i in indices):
            raise UserError(f"kept channels of {name!r} do not fit this codec")
    remove_from(codec, [groups[name] for name in kept], kept)


def _groups_of(codec: VideoCodec) -> Channels:
    """The groups as they were found; which kind of those of heads it was, only a trial tells."""
    traced = trace(codec)
    return find_groups(codec) if traced.book.heads else sort_out(codec, traced)


@torch.no_grad()
def largest_difference(masked: VideoCodec, shrunk: VideoCodec, clips: Iterable[Tensor]) -> float:
    """Largest relative difference of pictures and bits over coding-loop `clips` (T, 3, H, W).

    The first P frame of a clip sees only the picture in its reference, later ones every field:
    absent and present states are both covered. A symbol that falls on the other side of a
    rounding tie shows as a large difference (see `check_same`).
    """
    worst = 0.0
    for clip in clips:
        first = second = Reference(clip[:1])
        for t in range(1, clip.shape[0]):
            a = masked(clip[t : t + 1], first, masked.rates()[0])
            b = shrunk(clip[t : t + 1], second, shrunk.rates()[0])
            worst = max(worst, _difference(a, b))
            first, second = a.reference, b.reference
    return worst


def check_same(masked: VideoCodec, shrunk: VideoCodec, clips: Iterable[Tensor]) -> float:
    """`largest_difference`, refused above 1e-5: then removal went wrong and nothing may follow.

    A latent on a rounding tie falls to either side by the order in which a layer adds up, and then
    pictures differ by far more. So a clip that differs is tried again, twice, with a level of noise
    on it: a tie is gone then, a channel that should not have been removed shows in all of them.
    """
    worst = 0.0
    for clip in clips:
        found = largest_difference(masked, shrunk, [clip])
        if not found <= TOLERANCE:
            found = largest_difference(masked, shrunk, [_noisy(clip, seed) for seed in (1, 2)])
        worst = worst if found <= worst else found  # also where it is no number
    if not worst <= TOLERANCE:
        raise UserError(
            f"the shrunk codec differs from the masked one by {worst:.2g} (relative; allowed "
            f"{TOLERANCE:g}): a channel group of {masked.name} is not what the dependency graph "
            "says; please report it with the output of `python -m prune.plan`"
        )
    return worst


def _noisy(clip: Tensor, seed: int) -> Tensor:
    """The clip with noise of a level of 8 bits."""
    noise = torch.rand(clip.shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    return (clip + noise.to(clip.device) / 127.5).clamp(0, 1)


def _difference(a: CodedFrame, b: CodedFrame) -> float:
    pairs = [(a.frame, b.frame), *((a.bits[k], b.bits[k]) for k in a.bits)]
    return max(_relative(x, y) for x, y in pairs)


def _relative(x: Tensor, y: Tensor) -> float:
    """Largest difference, relative to the largest value; infinite where something is no number."""
    difference = float((x - y).abs().max() / x.abs().max().clamp_min(1e-6))
    return difference if math.isfinite(difference) else math.inf
