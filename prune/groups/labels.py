"""Labels: for every entry of a tensor the atom of the channel that it belongs to.

They have the tensor's shape, but are stored once where they do not vary, in most cases along all
dimensions but that of the channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from prune.groups.atoms import NONE

ALONG = frozenset({  # what moves entries, and computes nothing
    "reshape", "view", "reshape_as", "view_as", "flatten", "ravel", "unflatten", "permute",
    "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint", "squeeze",
    "unsqueeze", "squeeze_", "unsqueeze_", "transpose_", "expand", "expand_as", "broadcast_to",
    "repeat", "tile", "repeat_interleave", "chunk", "split", "split_with_sizes", "tensor_split",
    "hsplit", "vsplit", "dsplit", "unsafe_chunk", "unsafe_split", "unbind", "narrow", "select",
    "__getitem__", "index_select", "take_along_dim", "gather", "masked_select", "diagonal",
    "contiguous", "clone", "detach", "flip", "fliplr", "flipud", "rot90", "roll", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "cat", "concat", "concatenate", "stack", "hstack",
    "vstack", "dstack", "row_stack", "column_stack", "as_strided", "pad", "tril", "triu",
})  # fmt: skip
PARTS = frozenset({
    "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk", "unsafe_split",
    "hsplit", "vsplit", "dsplit",
})  # fmt: skip


def compact(labels: Tensor) -> Tensor:
    """The same labels, without memory for dimensions along which they do not vary."""
    core = once(labels)
    for dim in range(core.dim()):
        if core.shape[dim] > 1 and bool((core == core.narrow(dim, 0, 1)).all()):
            core = core.narrow(dim, 0, 1)
    return core.clone().expand(labels.shape)


def once(labels: Tensor) -> Tensor:
    """Size 1 for each dimension along which labels are stored once."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def varying(labels: Tensor) -> set[int]:
    """Dimensions along which compact labels vary."""
    return {dim for dim, size in enumerate(once(labels).shape) if size > 1}


def along(atoms: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """`atoms` as labels of a tensor of this shape whose channels are its dimension `dim`."""
    view = [1] * len(shape)
    view[dim] = len(atoms)
    return atoms.view(view).expand(tuple(shape))


def none(shape: Sequence[int]) -> Tensor:
    """Labels of a constant."""
    return torch.tensor(NONE).expand(tuple(shape))


def merged(a: Tensor, b: Tensor) -> Tensor:
    """Labels of what is computed entry by entry from two tensors."""
    a, b = torch.broadcast_tensors(a, b)
    core = torch.where(once(a) >= 0, once(a), once(b))
    return core.expand(a.shape)


def replayed(
    function: Callable, args: tuple, kwargs: dict, labels_of: Callable[[Tensor], Tensor | None]
) -> Any:
    """Labels of its arguments behind `function`, which only moves entries."""

    def swap(x: Tensor) -> Tensor:
        found = labels_of(x)
        if found is None and not x.is_floating_point():
            return x.cpu()  # an index
        # Padding knows floating point alone; these are exact far beyond any number of atoms.
        return (none(x.shape) if found is None else found).double()

    args, kwargs = tree_map_only(Tensor, swap, (args, kwargs))
    if getattr(function, "__name__", "") == "pad":
        kwargs = _with_padding_of_none(args, kwargs)
    moved = function(*args, **kwargs)
    return tree_map_only(Tensor, lambda x: compact(x.round().long()), moved)


def _with_padding_of_none(args: tuple, kwargs: dict) -> dict:
    mode = kwargs.get("mode", args[2] if len(args) > 2 else "constant")
    return kwargs if mode != "constant" or len(args) > 3 else kwargs | {"value": float(NONE)}
