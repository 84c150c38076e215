"""Products of tensors, and convolutions that are called as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from prune.groups import operations
from prune.groups.labels import none, varying
from prune.groups.leaves import convolved, owner_of

if TYPE_CHECKING:
    from prune.groups.follower import Follower


def product(
    follower: Follower, name: str, args: tuple, kwargs: dict, before: list[Tensor], output: Tensor
) -> Tensor:
    book, shape = follower.book, output.shape
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    labels = [follower.labels(x) for x in given]
    shapes = [tuple(x.shape) for x in given]
    if name == "linear":
        owner = owner_of(given[1], follower.owners)
        layer = follower.layers.get(owner) if owner else None
        if isinstance(layer, nn.Linear) and labels[0] is not None:
            assert owner is not None
            return convolved(book, owner, layer.in_features, layer.out_features, 1, labels[0],
                             output, output.dim() - 1)  # fmt: skip
        return operations.unknown(book, name, before, shape)
    if any(isinstance(x, nn.Parameter) for x in given):
        return operations.unknown(book, f"{name} with a parameter", before, shape)
    for x, known in zip(given, labels, strict=True):
        if known is None and (owner := owner_of(x, follower.owners)):
            weight = f"{name} with the weight of {owner} (call the layer itself)"
            return operations.unknown(book, weight, before, shape)
    if name == "scaled_dot_product_attention" and min(map(len, shapes)) >= 2:
        return _attended(follower, args, kwargs, shape)
    if name == "einsum":
        equation = next((x for x in args if isinstance(x, str)), kwargs.get("equation", ""))
        if len(given) == 2:
            found = operations.einsum_labels(book, equation, labels, shapes)
            if found is not None:
                return found
    elif len(given) == 2 and min(map(len, shapes)) >= 2 and name not in ("cdist", "outer",
            "tensordot", "inner"):  # fmt: skip
        if name == "__rmatmul__":
            labels, shapes = labels[::-1], shapes[::-1]
        return operations.matrices(book, labels[0], labels[1], shapes, shape)
    return operations.unknown(book, name, before, shape)


def _attended(follower: Follower, args: tuple, kwargs: dict, shape: Sequence[int]) -> Tensor:
    book = follower.book
    parts: list[Tensor] = [args[i] if i < len(args) else kwargs[key]
                           for i, key in enumerate(("query", "key", "value"))]  # fmt: skip
    labels = [follower.labels(x) for x in parts]
    scale = kwargs.get("scale", args[6] if len(args) > 6 else None)
    query = labels[0]
    if scale is None and query is not None and query.dim() - 1 in varying(query):
        book.note(
            query,
            "scaled_dot_product_attention, which scales by their number (give it scale=, a number)",
        )
    return operations.attention(book, labels, [x.shape for x in parts], shape)


def convolution_called(
    follower: Follower, name: str, args: tuple, kwargs: dict, before: list[Tensor], output: Tensor
) -> Tensor:
    """A convolution as a function: of a layer's weight, as that layer."""
    x, weight, bias, *rest = _by_name(args, kwargs, ("input", "weight", "bias"))
    labels = follower.labels(x) if isinstance(x, Tensor) else None
    owner = owner_of(weight, follower.owners)
    layer = follower.layers.get(owner) if owner else None
    groups = kwargs.get("groups", rest[3] if len(rest) > 3 else 1)
    if labels is not None and owner is None and groups == x.shape[1] == output.shape[1]:
        return _each_by_itself(follower, name, x, weight, bias, output)
    turned = "transpose" in name
    if labels is None or not isinstance(layer, _ConvNd) or layer.transposed != turned:
        whose = "no layer's" if owner is None else f"that of {owner}, another kind of layer"
        return operations.unknown(
            follower.book, f"{name}, whose weight is {whose}", before, output.shape
        )
    assert owner is not None
    return convolved(follower.book, owner, layer.in_channels, layer.out_channels, layer.groups,
                     labels, output)  # fmt: skip


def _by_name(args: tuple, kwargs: dict, names: Sequence[str]) -> list[Any]:
    """Arguments by position or name, those of `names` first and present."""
    missing = [name for name in names[len(args) :]]
    return [*args, *(kwargs.get(name) for name in missing)]


def _each_by_itself(
    follower: Follower, name: str, x: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor
) -> Tensor:
    """A depthwise convolution by a parameter, or by numbers such as those of a blur."""
    book = follower.book
    known = follower.labels(x)
    assert known is not None
    labels = operations.each_channel(book, name, known, output.shape)
    for value in (weight, bias):
        theirs = follower.labels(value) if isinstance(value, Tensor) else None
        if theirs is not None and 0 in varying(theirs):
            first = labels[:1].flatten(2)[0, :, :1] if labels.dim() > 2 else labels[0, :, None]
            book.atoms.tie(theirs.reshape(len(theirs), -1), first)
    return labels


def without_grid(follower: Follower, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """A warp without the way from its grid to what it moves."""
    grid = kwargs.get("grid", args[1] if len(args) > 1 else None)
    if not isinstance(grid, Tensor):
        return args, kwargs
    follower.grids.append(grid)
    with follower.apart():
        still = grid.detach()
        follower.mark(still, none(grid.shape))
    if "grid" in kwargs:
        return args, kwargs | {"grid": still}
    return (args[0], still, *args[2:]), kwargs


def fetched(follower: Follower, function: Callable, args: tuple, kwargs: dict) -> Tensor:
    """torchvision's operator: input, weight, offsets, mask, bias, ..."""
    x, weight, offsets, mask = args[:4]
    moved = function(x, weight, offsets.detach(), mask.detach(), *args[4:], **kwargs)
    labels, taps = follower.labels(x), weight[0, 0].numel()
    owner = owner_of(weight, follower.owners)
    inputs, fields = x.shape[1], offsets.shape[1] // (2 * taps)
    if fields == 1:
        follower.grids.append(offsets)
        follower.grids += [mask] if mask.numel() else []
    elif labels is not None:
        for part, width in ((offsets, 2 * taps), (mask, taps)):
            steered = follower.labels(part) if part.numel() else None
            if steered is None:
                continue
            for g in range(fields):
                group = labels.narrow(1, g * (inputs // fields), inputs // fields)
                follower.book.atoms.tie(group, group[:, :1, :1, :1])
                follower.book.atoms.tie(steered.narrow(1, g * width, width), group[:, :1, :1, :1])
    if owner is None:
        known = [] if labels is None else [labels]
        found = operations.unknown(follower.book, "deform_conv2d, whose weight is no layer's",
                                   known, moved.shape)  # fmt: skip
    else:
        made, per_group = weight.shape[0], weight.shape[1]
        found = convolved(follower.book, owner, inputs, made, inputs // per_group,
                          none(x.shape) if labels is None else labels, moved)  # fmt: skip
        follower.producers[moved.grad_fn] = owner
    follower.mark(moved, found)
    return moved
