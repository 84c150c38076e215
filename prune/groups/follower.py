"""A pass of a codec in which every function of torch says what it does to channels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from prune.groups import operations, products, special
from prune.groups.atoms import TooManyError
from prune.groups.counts import counted, sizes_of, tie_parts_by_size, tie_reshaped
from prune.groups.labels import ALONG, PARTS, along, compact, none, once, replayed, varying
from prune.groups.leaves import (
    closed,
    closed_to,
    is_reparametrised,
    makes_channels,
    own_values,
    rule_of,
)
from prune.groups.moving import padded, tie_parts, tie_picked
from prune.groups.operations import Book
from vcodecs import CodedFrame, UserError, VideoCodec
from vcodecs.motion import MovedGroups

RESHAPES = frozenset({"reshape", "view", "unflatten", "reshape_as", "view_as"})
CUTS = frozenset({"narrow", "split", "split_with_sizes"})
CONVOLVING = frozenset(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3))
LARGEST_PARAMETER = 2**22
"""Entries of a parameter outside layers up to which its channels are followed."""


class Follower(TorchFunctionMode):
    """Sees every torch function of a pass, and says which channels its result has."""

    def __init__(self, codec: VideoCodec, units: str) -> None:
        super().__init__()
        self.book = Book(units)
        self.producers: dict[object, str] = {}
        """Node of autograd's graph -> the layer that made it."""
        self.results: list[Tensor] = []
        self.grids: list[Tensor] = []
        self._by_node: dict[object, Tensor] = {}
        self._deep = 0
        """Layers that are running, which are not looked into."""
        self.owners: dict[int, str] = {}
        self._free: dict[int, str] = {}
        self.layers = dict(codec.named_modules())
        for name, layer in self.layers.items():
            mine = makes_channels(layer) or (rule_of(layer) and not isinstance(layer, nn.PReLU))
            for key, value in own_values(layer):
                self._free[id(value)] = "" if mine else f"{name}.{key}".lstrip(".")
            if makes_channels(layer):
                self.owners |= {id(p): name for p in _own_parameters(layer)}

    # ------------------------------------------------------------------ labels of tensors

    def labels(self, x: Tensor) -> Tensor | None:
        """The labels of a tensor; None where no channel is behind it."""
        found = getattr(x, "_channel_labels", None)
        if found is not None:
            return found if found.shape == x.shape and bool((once(found) >= 0).any()) else None
        if isinstance(x, nn.Parameter) or id(x) in self._free:
            return self._of_parameter(x)
        return self._through_the_unseen(x) if x.grad_fn is not None else None

    def _of_parameter(self, x: Tensor) -> Tensor | None:
        name = self._free.get(id(x), "")
        if not name or not 1 < x.numel() <= LARGEST_PARAMETER or not x.is_floating_point():
            return None
        atoms = self.book.atoms.of(name, "norm", x.numel())
        span = range(int(atoms[0]), int(atoms[0]) + len(atoms))
        if span not in self.book.parameters:
            self.book.parameters.append(span)
        return atoms.view(x.shape)

    def _through_the_unseen(self, x: Tensor) -> Tensor | None:
        """Behind an autograd function of the codec's own: as if entry by entry."""
        found, seen, stack = [], set(), [x.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in self._by_node:
                found.append(self._by_node[node])
            else:
                stack += [following for following, _ in node.next_functions]
        found = [labels for labels in found if bool((once(labels) >= 0).any())]
        alike = [labels for labels in found if labels.shape == x.shape]
        for labels in found:
            if labels.shape != x.shape:
                self.book.hold(labels, "behind it channels cannot be followed (autograd.Function)")
        if not alike:
            return None
        labels = operations.elementwise(self.book, alike, x.shape)
        self.mark(x, labels)
        return labels

    def mark(self, x: Tensor, labels: Tensor) -> None:
        x._channel_labels = labels  # type: ignore[attr-defined]  # rides along with the tensor
        if x.grad_fn is not None:
            self._by_node[x.grad_fn] = labels

    def enter(self, key: str, x: Tensor) -> Tensor:
        """A tensor from outside, whose channels are its own."""
        name = f"entry:reference_{key}" if key else "entry:frame"
        with self.apart():
            entered = x.detach().clone()
            if x.dim() > 1:
                atoms = self.book.atoms.of(name, "out", x.shape[1])
                self.mark(entered, along(atoms, 1, x.shape))
        return entered

    def take(self, coded: CodedFrame) -> None:
        """Note what a P frame has come to."""
        self.results += [coded.frame, *coded.bits.values()]
        for key, x in coded.reference.tensors().items():
            labels = self.labels(x)
            if labels is not None and x.dim() > 1:
                self.book.read(f"exit:reference_{key}", labels, 1, x.shape[1])

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within it nothing is the codec's doing."""
        self._deep += 1
        try:
            yield
        finally:
            self._deep -= 1

    # ------------------------------------------------------------------ functions

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if self._deep:
            return function(*args, **kwargs)
        if name == "__get__":  # x.mT moves entries, x.shape is no tensor
            name = getattr(getattr(function, "__self__", None), "__name__", "")
            result = function(*args, **kwargs)
            if isinstance(result, Tensor) and name in ("T", "mT", "H", "mH", "data"):
                self._moved("", result, function, args, kwargs)
            elif isinstance(result, Tensor) and name in ("real", "imag"):
                known = self.labels(args[0])
                self.mark(result, none(result.shape) if known is None else known)
            return self._size(args[0], result) if name == "shape" else result
        if name in ("grid_sample", "grid_sampler"):
            args, kwargs = products.without_grid(self, args, kwargs)
        if name == "deform_conv2d":
            return products.fetched(self, function, args, kwargs)
        if name == "__setitem__":
            return self._filled(function, args, kwargs)
        if name == "size" and args:
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            sizes = self._size(args[0], torch.Tensor.size(args[0]))
            return sizes if dim is None else sizes[dim]
        before = self._known(args, kwargs)
        result = function(*args, **kwargs)
        if not any(isinstance(x, Tensor) for x in tree_leaves(result)):
            return result
        try:
            return self._labelled(name, function, args, kwargs, before, result)
        except TooManyError:
            raise
        except Exception:  # a form of a function that no rule foresees: nothing is claimed of it
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    self.mark(x, operations.unknown(self.book, name, before, x.shape))
            return result

    def _size(self, x: Tensor, size: Any) -> Any:
        """A tensor's size, in numbers that know which channels they count."""
        known = None if isinstance(x, nn.Parameter) else self.labels(x)
        return counted(self.book, known, size)

    def _known(self, args: tuple, kwargs: dict) -> list[Tensor]:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        found = [self.labels(x) for x in given]
        known = [labels for labels in found if labels is not None]
        if any(labels is None and x.grad_fn for labels, x in zip(found, given, strict=True)):
            # A parameter meets what has no channels, such as the weights of an attention.
            known = [labels for labels in known if not self.book.is_of_parameter(labels)]
        return known

    def _labelled(
        self, name: str, function: Callable, args: tuple, kwargs: dict, before: list[Tensor],
        result: Any,
    ) -> Any:  # fmt: skip
        """`result` with its labels; of what channels were `before`."""
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if not before or name.startswith("new_"):
            for x in outputs:
                if not isinstance(x, nn.Parameter):
                    self.mark(x, none(x.shape))
        elif name in special.RULES:
            found = special.labelled(self, name, function, args, kwargs, outputs[0])
            self.mark(outputs[0], found)
        elif name in ALONG:
            self._moved(name, result, function, args, kwargs)
        elif name in operations.PRODUCTS:
            self.mark(outputs[0], products.product(self, name, args, kwargs, before, outputs[0]))
        elif name in CONVOLVING:
            self.mark(
                outputs[0],
                products.convolution_called(self, name, args, kwargs, before, outputs[0]),
            )
        elif name in operations.REDUCTIONS and not self._is_pairwise(name, args, kwargs):
            labels = self._common(before)
            found, only = operations.reduced(self.book, name, labels, result, args, kwargs)
            if only and isinstance(result, Tensor):
                # What is weighted by a likeness of channels has no path to these.
                result = result.detach()
                outputs = [result]
            for x in outputs:
                self.mark(x, found)
        elif name in operations.SPATIAL:
            for x in outputs:
                self.mark(x, operations.each_channel(self.book, name, before[0], x.shape))
        elif name == "unfold" and args and args[0].dim() == 4 and outputs[0].dim() == 3:
            labels = operations.each_channel(self.book, name, before[0], (*args[0].shape[:2], 1))
            taps = outputs[0].shape[1] // args[0].shape[1]
            spread = labels.repeat_interleave(taps, 1)
            self.mark(outputs[0], compact(spread.expand(outputs[0].shape)))
        else:
            self._entry_by_entry(name, args, kwargs, before, outputs)
        return result

    def _common(self, before: list[Tensor]) -> Tensor:
        shape = torch.broadcast_shapes(*(x.shape for x in before))
        return operations.elementwise(self.book, before, shape)

    def _is_pairwise(self, name: str, args: tuple, kwargs: dict) -> bool:
        """Whether this is max(x, y) of two tensors."""
        second = args[1] if len(args) > 1 else kwargs.get("other")
        return name in ("max", "min") and isinstance(second, Tensor)

    def _entry_by_entry(
        self, name: str, args: tuple, kwargs: dict, before: list[Tensor], outputs: list[Tensor]
    ) -> None:
        book = self.book
        try:
            shape = torch.broadcast_shapes(*(x.shape for x in before))
        except RuntimeError:
            shape = ()
        for x in outputs:
            if shape and _fits(shape, x.shape):
                self.mark(x, operations.elementwise(book, before, x.shape))
            else:
                self.mark(x, operations.unknown(book, name, before, x.shape))
        if name in operations.ALONG_AN_AXIS:
            dim = operations.argument(args, kwargs, operations.ALONG_AN_AXIS[name], -1)
            if isinstance(dim, int) and dim % before[0].dim() in varying(before[0]):
                book.note(before[0], f"{name} over the channels")

    def _moved(self, name: str, result: Any, function: Callable, args: tuple, kwargs: dict) -> None:
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        whole = next(x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        if name == "pad" and (known := self.labels(whole)) is not None:
            found = padded(known, outputs[0].shape)
            if found is not None:
                self.mark(outputs[0], found)
                return
        if name in PARTS:
            tie_parts(self.book, self.labels(whole), whole, outputs)
        if name == "__getitem__":
            tie_picked(self.book, self.labels(whole), args[1])
        elif name == "stack":  # of one shape, also when they have lost channels
            self._common(self._known(args, kwargs))
        elif name == "select" and (known := self.labels(whole)) is not None:
            dim = operations.argument(args, kwargs, 1)
            self.book.tied_along(known, {dim % whole.dim()})
        moved = tree_leaves(replayed(function, args, kwargs, self.labels))
        if name == "stack":
            dim = operations.argument(args, kwargs, 1, 0) % outputs[0].dim()
            moved = [self.book.tied_along(x, {dim}) for x in moved]
        if name in RESHAPES:
            if name.endswith("_as"):
                sizes = self._size(args[1], args[1].shape)
            else:
                sizes = sizes_of(name, args, kwargs, outputs[0].shape)
            moved = [tie_reshaped(self.book, x, sizes) if sizes else x for x in moved]
        elif name in CUTS:
            tie_parts_by_size(self.book, name, self.labels(whole), args, kwargs)
        for x, labels in zip(outputs, moved, strict=True):
            self.mark(x, labels)

    def _filled(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """x[index] = value"""
        target, index, value = args
        mine, theirs = self.labels(target), isinstance(value, Tensor) and self.labels(value)
        result = function(*args, **kwargs)
        if mine is not None or isinstance(theirs, Tensor):
            filled = (none(target.shape) if mine is None else mine).clone()
            filled = filled.contiguous()
            function(filled, index, theirs if isinstance(theirs, Tensor) else -1)
            self.mark(target, compact(filled))
        return result

    # ------------------------------------------------------------------ layers

    @contextmanager
    def hooks(self, codec: VideoCodec) -> Iterator[None]:
        """Let layers be seen as a whole."""
        hooks: list[RemovableHandle] = []
        inside: set[str] = set()
        for name, layer in codec.named_modules():
            rule = rule_of(layer)
            if rule is None or name in inside or not name:
                continue
            inside.update(f"{name}.{child}" for child, _ in layer.named_modules() if child)
            if isinstance(layer, torch.jit.ScriptModule):
                raise UserError(
                    f"{name}: a scripted module (torch.jit) with weights cannot be looked into; "
                    "use the module that it was made from"
                )
            hooks.append(layer.register_forward_pre_hook(self._begin, prepend=True))
            hooks.append(layer.register_forward_hook(self._end(name, rule), with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, *_: object) -> None:
        self._deep += 1

    def _end(self, name: str, rule: Callable) -> Callable:
        def hook(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            try:
                given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
                outputs = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
                known = self.labels(given[0])
                known = none(given[0].shape) if known is None else known
                made = rule(self.book, name, layer, known, outputs[0])
                if rule is closed:
                    for x in given[1:]:
                        self.book.hold(self.labels(x), closed_to(name, layer))
                if isinstance(layer, MovedGroups):  # motion and gates
                    self.grids += given[1:]
                if is_reparametrised(layer):
                    for labels in (known, made):
                        self.book.hold(labels, _reparametrised(name))
                for x in outputs:
                    self.mark(x, made if x is outputs[0] else none(x.shape))
                if makes_channels(layer):
                    self.producers[outputs[0].grad_fn] = name
            finally:
                self._deep -= 1

        return hook

    def layers_behind(self, tensors: Iterable[Tensor]) -> set[str]:
        """The nearest layers that these tensors are computed from."""
        found, seen, stack = set(), set(), [tensor.grad_fn for tensor in tensors]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in self.producers:
                found.add(self.producers[node])
            else:
                stack += [following for following, _ in node.next_functions]
        return found


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a tensor of `shape` broadcasts to `wanted`."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(a in (1, b) for a, b in pairs)


def _reparametrised(name: str) -> str:
    return (
        f"the weight of {name} is computed of others (weight or spectral norm): fold it by "
        "torch.nn.utils.parametrize.remove_parametrizations, then it can be pruned"
    )


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    mine = list(layer.parameters(recurse=False))
    if parametrize.is_parametrized(layer):
        mine += list(layer.get_submodule("parametrizations").parameters())
    return mine
