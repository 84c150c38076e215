"""A trial of channel groups: does removing their channels equal masking them?

The dependency graph cannot see everything: a gate that makes something of zeros, a slice at a
fixed position, a constant with one entry a channel. A copy of the codec with random weights and
a few random frames show what it missed, before anything is trained.
"""

import copy
from collections.abc import Sequence

import torch

from lvc.pictures import SIZE_MULTIPLE
from prune.groups.channels import Group
from prune.groups.removal import remove_from
from prune.groups.weights import Convolution, zero_channels
from vcodecs import Reference, VideoCodec
from vcodecs.layers import has_values

TOLERANCE = 1e-4
"""Relative; what goes wrong is far larger, rounding errors over a few frames far smaller."""

GAINS = (1.0, 0.85, 0.7, 0.5)
"""Of the trial's weights. Sums of many branches, in a loop over frames, grow without bound, until
a rounding error is as large as what is looked for: the first gain that does not is taken."""
LARGEST = 1e5


def verify_groups(codec: VideoCodec, groups: Sequence[Group]) -> dict[str, str]:
    """By name the groups that cannot be removed, and why; each is found by halving the rest."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        shaken = copy.deepcopy(codec).eval()
        frames = torch.rand(3 + codec.turns, 3, SIZE_MULTIPLE, SIZE_MULTIPLE)
        if not has_values(codec):
            # Without weights there is nothing to compare but whether it still fits together.
            return _search(shaken, tuple(groups), frames.to("meta"))
        shaken.cpu()
        for gain in GAINS:
            _draw_weights(shaken, gain)
            if all(bool(x.abs().max() < LARGEST) for x in _results(shaken, frames)):
                break
        return _search(shaken, tuple(groups), frames)


def _search(codec: VideoCodec, groups: Sequence[Group], frames: torch.Tensor) -> dict[str, str]:
    reason = _fault(codec, groups, frames)
    if reason is None:
        return {}
    if len(groups) == 1:
        return {groups[0].name: reason}
    middle = len(groups) // 2
    return _search(codec, groups[:middle], frames) | _search(codec, groups[middle:], frames)


def _fault(codec: VideoCodec, groups: Sequence[Group], frames: torch.Tensor) -> str | None:
    """What goes wrong when a third of these groups' channels is removed; None if nothing."""
    kept = {g.name: [c for c in range(g.size) if c % 3 != 1] for g in groups}
    masked, shrunk = copy.deepcopy(codec), copy.deepcopy(codec)
    for group in groups if has_values(codec) else ():
        zero_channels(masked, group, kept[group.name])
    expected = _results(masked, frames)
    try:
        remove_from(shrunk, groups, kept)
        found = _results(shrunk, frames)
    except Exception as error:  # whatever a codec raises whose tensors do not fit together
        said = next(iter(str(error).splitlines()), type(error).__name__)
        return f"without some of its channels the codec fails: {said}"
    for a, b in zip(expected, found, strict=True):
        if a.is_meta and a.shape == b.shape:
            continue
        bound = TOLERANCE * float(a.abs().max())
        if a.shape != b.shape or not torch.allclose(a, b, rtol=0, atol=bound, equal_nan=True):
            return "removing its channels is not the same as masking them"
    return None


def _results(codec: VideoCodec, frames: torch.Tensor) -> list[torch.Tensor]:
    """Pictures, not clamped, and bits of P frames in a coding loop."""
    results = []
    reference = Reference(frames[:1])
    for t in range(1, len(frames)):
        coded = codec.code(frames[t : t + 1], reference, codec.rates()[0], None)
        results += [coded.frame, *coded.bits.values()]
        reference = coded.reference
    return results


def _draw_weights(codec: VideoCodec, gain: float) -> None:
    """Weights under which every channel matters: trained or fresh ones may hold zeros.

    With a gain of 1 a layer keeps the variance of what passes it.
    """
    for layer in codec.modules():
        if isinstance(layer, Convolution):
            bound = gain * (3 / layer.weight[0].numel()) ** 0.5
            layer.weight.uniform_(-bound, bound)
            if layer.bias is not None:
                layer.bias.uniform_(-0.1, 0.1)
