"""Functions of torch with a rule of their own for channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from prune.groups import operations
from prune.groups.labels import along, compact, once, replayed, varying

if TYPE_CHECKING:
    from prune.groups.follower import Follower

Rule = Callable[["Follower", str, Callable, tuple, dict, Tensor], Tensor]
"""(follower, name, function, arguments, result) -> labels of the result."""


def _first(follower: Follower, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
    x = next(x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    return x, follower.labels(x)


def _gated(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Tensor
) -> Tensor:
    """glu: one half of the channels times the sigmoid of the other."""
    x, labels = _first(follower, args, kwargs)
    assert labels is not None
    dim = operations.argument(args, kwargs, 1, -1) % x.dim()
    half = x.shape[dim] // 2
    one, other = labels.narrow(dim, 0, half), labels.narrow(dim, half, half)
    return operations.elementwise(follower.book, [one, other], result.shape)


def _slopes(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Tensor
) -> Tensor:
    """prelu: a slope for each channel, which is dimension 1 wherever channels are."""
    x, labels = _first(follower, args, kwargs)
    assert labels is not None
    weight = kwargs.get("weight", args[-1])
    theirs = follower.labels(weight)
    if theirs is None or theirs.numel() == 1:
        return labels
    theirs = along(theirs, 1 if x.dim() > 1 else 0, x.shape)
    return operations.elementwise(follower.book, [labels, theirs], result.shape)


def _shuffled(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Tensor
) -> Tensor:
    """channel_shuffle: as many channels have to be left in each of its groups."""
    _, labels = _first(follower, args, kwargs)
    assert labels is not None
    groups = kwargs.get("groups", args[-1])
    if 1 in varying(labels):
        by_group = labels.unflatten(1, (groups, -1))
        follower.book.atoms.tie(by_group, by_group.narrow(1, 0, 1))
    return replayed(function, args, kwargs, follower.labels)


def _folded(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Tensor
) -> Tensor:
    """fold: the taps of a channel, which lie side by side, become one channel again."""
    x, labels = _first(follower, args, kwargs)
    assert labels is not None
    dim = x.dim() - 2
    count = result.shape[-3]
    taps = follower.book.tied_along(labels, {labels.dim() - 1}).unflatten(dim, (count, -1))
    follower.book.atoms.tie(taps, taps.narrow(dim + 1, 0, 1))
    return along(taps.select(dim + 1, 0).narrow(-1, 0, 1).reshape(-1)[:count], result.dim() - 3,
                 result.shape)  # fmt: skip


def _transformed(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Tensor
) -> Tensor:
    """Fourier transforms of each channel by itself."""
    _, labels = _first(follower, args, kwargs)
    assert labels is not None
    over = kwargs.get("dim", args[2] if len(args) > 2 else (-2, -1) if name.endswith("2") else -1)
    dims = {d % labels.dim() for d in ([over] if isinstance(over, int) else over or range(9))}
    if dims & varying(labels):
        return operations.unknown(follower.book, name, [labels], result.shape)
    return once(labels).expand(result.shape)


def _normalised(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Tensor
) -> Tensor:
    """A norm as a function, whose weights are no layer's."""
    for x in tree_leaves((args, kwargs)):
        if isinstance(x, Tensor):
            follower.book.hold(
                follower.labels(x),
                f"normalised by torch's {name} as a function (a BatchNorm2d, InstanceNorm2d or "
                "GroupNorm as a layer can lose channels)",
            )
    return operations.none(result.shape)


RULES: dict[str, Rule] = {
    "glu": _gated,
    "prelu": _slopes,
    "fold": _folded,
    "channel_shuffle": _shuffled,
    "native_channel_shuffle": _shuffled,
    **dict.fromkeys(("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_ifft2",
                     "fft_rfft2", "fft_irfft2"), _transformed),
    **dict.fromkeys(("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
                    _normalised),
}  # fmt: skip


def labelled(
    follower: Follower, name: str, function: Callable, args: tuple, kwargs: dict, result: Any
) -> Tensor:
    """Labels behind the function called `name`, one of RULES."""
    return compact(RULES[name](follower, name, function, args, kwargs, result))
