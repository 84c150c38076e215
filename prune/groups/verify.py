"""A trial of channel groups: does removing their channels equal masking them?

The dependency graph cannot see everything: a gate that makes something of zeros, a slice at a
fixed position, a constant with one entry a channel. A copy of the codec with random weights and
a few random frames show what it missed, before anything is trained.
"""

import copy
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import torch
import torchvision
from torch.nn.modules.batchnorm import _NormBase

import prune
from prune.groups.channels import Group
from prune.groups.leaves import is_reparametrised
from prune.groups.removal import remove_from
from prune.groups.weights import Weighted, zero_channels
from vcodecs import Reference, VideoCodec
from vcodecs.checkpoints import resize
from vcodecs.layers import has_values

TOLERANCE = 1e-4
"""Relative; what goes wrong is far larger, rounding errors over a few frames far smaller."""
GAINS = (1.0, 0.85, 0.7, 0.5)
"""Gains of the trial's weights. Sums of many branches, in a loop over frames, grow without bound,
until a rounding error is as large as what is looked for: the first gain that does not is taken."""
LARGEST = 1e5
MOVED = 0.3
"""Spread by which parameters of layers that are no convolutions are moved."""
NOT_MASKING = "removing its channels is not the same as masking them"


def verify_groups(codec: VideoCodec, groups: Sequence[Group]) -> dict[str, str]:
    """By name the groups that cannot be removed, and why; each is found by halving the rest."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        frames = torch.rand(3 + codec.turns, 3, codec.multiple, codec.multiple)
        if has_values(codec):
            shaken = _shaken(codec, frames)
        else:  # then there is nothing to compare but whether it still fits together
            shaken, frames = copy.deepcopy(codec).eval(), frames.to("meta")
        return _search(shaken, (), groups, _different_parts(groups), frames)


def _shaken(codec: VideoCodec, frames: torch.Tensor) -> VideoCodec:
    """A copy with random weights."""
    for gain in GAINS:
        torch.manual_seed(0)
        shaken = copy.deepcopy(codec).cpu().eval()
        _draw_weights(shaken, gain)
        if all(bool(x.abs().max() < LARGEST) for x in _results(shaken, frames)):
            break
    return shaken


def _different_parts(groups: Sequence[Group]) -> dict[str, list[int]]:
    """Channels to keep of each group, as many of no two neighbours of one size.

    Where one width is taken for another, equal numbers would not show it.
    """
    kept, met = {}, Counter[int]()
    for group in groups:
        size = group.size
        gone = 1 + (size // 3 + 5 * met[size]) % max(1, size - 1)
        met[size] += 1
        removed = {(1 + i * size // gone) % size for i in range(min(gone, size - 1))}
        kept[group.name] = [c for c in range(size) if c not in removed]
    return kept


def _search(
    codec: VideoCodec,
    sound: tuple[Group, ...],
    groups: Sequence[Group],
    kept: dict[str, list[int]],
    frames: torch.Tensor,
) -> dict[str, str]:
    """Faults of `groups` beside those that are `sound`: two may each be so, and not together."""
    reason = _fault(codec, [*sound, *groups], kept, frames)
    if reason is None:
        return {}
    if len(groups) == 1:
        return {groups[0].name: reason}
    middle = len(groups) // 2
    faults = _search(codec, sound, groups[:middle], kept, frames)
    sound += tuple(g for g in groups[:middle] if g.name not in faults)
    return faults | _search(codec, sound, groups[middle:], kept, frames)


def _fault(
    codec: VideoCodec, groups: Sequence[Group], kept: dict[str, list[int]], frames: torch.Tensor
) -> str | None:
    """The fault that shows when the other channels of these groups are removed; None if none."""
    masked, shrunk, loaded = (copy.deepcopy(codec) for _ in range(3))
    for group in groups if has_values(codec) else ():
        zero_channels(masked, group, kept[group.name])
    expected = _results(masked, frames)
    if has_values(codec) and not expected[0].isfinite().all():
        return "random weights make its picture overflow: removing its channels cannot be tried"
    try:
        remove_from(shrunk, groups, kept)
        found = _results(shrunk, frames)
    except Exception as error:  # whatever a codec raises whose tensors do not fit together
        return f"without some of its channels the codec fails {_where(error)}"
    if not _alike(expected, found):
        return NOT_MASKING
    try:
        state = shrunk.state_dict()
        resize(loaded, state)
        loaded.load_state_dict(state)
        again = _results(loaded, frames[:2])
    except Exception as error:
        return f"shrunk, it could not be loaded from a file again: it fails {_where(error)}"
    return None if _alike(found, again) else "shrunk, it would be another codec behind a file"


def _alike(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Whether results are the same; of the shorter list alone.

    Random weights may make a later frame overflow; it then has to do so in both.
    """
    for a, b in zip(expected, found, strict=False):
        if a.shape != b.shape:
            return False
        if a.is_meta:
            continue
        numbers = a.isfinite()
        if not torch.equal(numbers, b.isfinite()):
            return False
        a, b = a[numbers], b[numbers]
        if a.numel() and float((a - b).abs().max()) > TOLERANCE * float(a.abs().max()):
            return False
    return True


def _where(error: Exception) -> str:
    """The line of the codec's own code at which it failed, and what torch said of it."""
    said = next(iter(str(error).splitlines()), type(error).__name__)
    ours = tuple(str(Path(module.__file__ or "").parent) for module in (torch, torchvision, prune))
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)
    ]
    if not frames:
        return f"({said})"
    last = frames[-1]
    return (
        f"at {Path(last.filename).name}:{last.lineno}, `{shorten(last.line or '', 80)}`: it counts "
        f"on their number; take widths from the tensor, as x.shape[1], not from numbers ({said})"
    )


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

    What is offered must not depend on values that training changes: shifts and scales of norms,
    learnt offsets and running statistics start where removing is masking, and do not stay there.
    """
    for layer in codec.modules():
        drawn = isinstance(layer, Weighted) and not is_reparametrised(layer)
        if drawn:
            assert isinstance(layer, Weighted)
            bound = gain * (3 / layer.weight[0].numel()) ** 0.5
            layer.weight.uniform_(-bound, bound)
            if layer.bias is not None:
                layer.bias.uniform_(-0.1, 0.1)
            continue
        moved = [*layer.parameters(recurse=False)]
        if isinstance(layer, _NormBase):
            moved += [x for x in (layer.running_mean, layer.running_var) if x is not None]
        for value in moved:
            if value.is_floating_point():
                # Upwards alone: what has to be positive stays so.
                value.add_(MOVED * torch.rand_like(value))
