"""A pass of a codec under watch: what Torch-Pruning's graph would get wrong, put right."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vcodecs import CodedFrame, VideoCodec
from vcodecs.layers import SubpelConv
from vcodecs.motion import MovedGroups

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, SubpelConv)
BROADCASTING = frozenset(
    f"{form}{name}{form}" for name in ("mul", "add", "sub") for form in ("", "__")
) | {"__rmul__", "__radd__", "__rsub__", "multiply", "div", "true_divide", "__truediv__"}


class Fetch(NamedTuple):
    """A deformable convolution: what it made of `inputs` channels, whose offsets are in groups."""

    moved: Tensor
    offsets: Tensor
    inputs: int
    groups: int


class Watch(TorchFunctionMode):
    """Sees every torch function of a pass, and rewrites those that the graph gets wrong."""

    def __init__(self, entries: nn.ModuleDict, sums: nn.ModuleDict) -> None:
        super().__init__()
        self.entries, self.sum_layers = entries, sums
        self.producers: dict[object, str] = {}
        """Node of autograd's graph -> the convolution or linear layer that made it."""
        self.edges: set[tuple[str, str]] = set()
        """Which convolution reads what which other one has made."""
        self.outputs: list[Tensor] = []
        self.results: list[Tensor] = []
        self.grids: list[Tensor] = []
        self.splits: list[tuple[Tensor, int]] = []
        self.fetches: list[Fetch] = []
        self.moved: list[tuple[Tensor, int]] = []
        """What moves in groups of channels, and in how many."""
        self.constants: dict[str, int] = {}
        """Widths of what is concatenated and was made of nothing: `nothing_` are zeros."""
        self.zeros: list[Tensor] = []
        self.sums: list[int] = []
        self.concatenated: dict[object, list[int]] = {}

    def take(self, coded: CodedFrame, leaving: list[Tensor]) -> None:
        """What a P frame has come to."""
        self.results += [coded.frame, *coded.bits.values()]
        self.outputs += [coded.frame, *leaving]

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        kwargs = kwargs or {}
        if name in ("grid_sample", "grid_sampler"):
            return self._sample(function, *args, **kwargs)
        if name == "deform_conv2d":
            return self._fetch(function, *args, **kwargs)
        if name in ("cat", "concat", "concatenate"):
            return self._concatenate(function, *args, **kwargs)
        if name in ("chunk", "split"):
            return self._split(function(*args, **kwargs), args[0])
        if name == "sum" and args[0].dim() >= 4 and args[1:] == (1,) and args[0].grad_fn:
            return self._sum(function(*args, **kwargs), args[0])
        if name == "stack":
            return self._stack(function, *args, **kwargs)
        if name in BROADCASTING and len(args) == 2:
            return function(*self._without_one_channel(*args), **kwargs)
        if name in ("zeros", "zeros_like", "new_zeros"):
            self.zeros.append(function(*args, **kwargs))
            return self.zeros[-1]
        return function(*args, **kwargs)

    def _without_one_channel(self, *operands: Any) -> tuple:
        """The operands of an element-wise function. What has one channel for all of another's
        is read by none of them in particular: without an edge, all would be tied to each other."""
        a, b = operands
        both = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dim() == b.dim() == 4
        if not both or a.shape[1] == b.shape[1]:
            return operands
        one = a if a.shape[1] == 1 else b
        if self.layers_behind([one]):
            self.outputs.append(one)
        return tuple(x.detach() if x is one else x for x in operands)

    def _sum(self, total: Tensor, summed: Tensor) -> Tensor:
        """A sum over channels: read by a layer of its own, and without an edge to what follows."""
        name = str(len(self.sums))
        self.sums.append(summed.shape[1])
        if name in self.sum_layers:
            self.outputs.append(self.sum_layers[name](summed.flatten(3)))
        return total.detach()

    def _sample(
        self, function: Callable, input: Tensor, grid: Tensor, *rest: Any, **kwargs: Any
    ) -> Tensor:
        """A warp without the edge from its grid to what it moves."""
        self.grids.append(grid)
        return function(input, grid.detach(), *rest, **kwargs)

    def _fetch(
        self, function: Callable, input: Tensor, weight: Tensor, offsets: Tensor, *rest: Any
    ) -> Tensor:
        """A deformable convolution without the edge from its offsets to what it moves."""
        moved = function(input, weight, offsets.detach(), *rest)
        self.outputs.append(offsets)
        groups = offsets.shape[1] // (2 * weight[0, 0].numel())
        self.fetches.append(Fetch(moved, offsets, input.shape[1], groups))
        return moved

    def move(self, module: nn.Module, inputs: tuple, _made: Tensor) -> Tensor:
        """Moved groups of channels without the edges from what steers and gates them."""
        assert isinstance(module, MovedGroups)
        x, motion, gates = inputs
        self.outputs += [motion, gates]
        self.moved.append((x, module.groups))
        return torch.cat((x,) * module.places, dim=1)

    def _concatenate(
        self, function: Callable, tensors: Sequence[Tensor], dim: int = 0, **kwargs: Any
    ) -> Tensor:
        """A concatenation of channels in which every tensor has a node."""
        tensors = list(tensors)
        channels = tensors[0].dim() == 4 and dim in (1, -3)
        if channels and any(x.grad_fn for x in tensors):
            tensors = [x if x.grad_fn else self._constant(x) for x in tensors]
        joined = function(tensors, dim, **kwargs)
        if channels:
            self.concatenated[joined.grad_fn] = [x.shape[1] for x in tensors]
        return joined

    def _stack(
        self, function: Callable, tensors: Sequence[Tensor], dim: int = 0, **kwargs: Any
    ) -> Tensor:
        """A stack of views of one tensor with one edge; with all, the paths multiply."""
        first, *rest = tensors
        makers = self.layers_behind([first])
        if all(self.layers_behind([x]) == makers for x in rest):
            tensors = [first, *(x.detach() for x in rest)]
        return function(tensors, dim, **kwargs)

    def _constant(self, x: Tensor) -> Tensor:
        # Zeros stay zeros, however many there are of them.
        kind = "nothing" if any(x is zeros for zeros in self.zeros) else "constant"
        name = f"{kind}_{len(self.constants)}"
        self.constants[name] = x.shape[1]
        return self.entries[name](x) if name in self.entries else x

    def _split(self, parts: tuple[Tensor, ...], whole: Tensor) -> tuple[Tensor, ...]:
        """A split of channels as slices, of which the graph knows the positions."""
        widths = [part.shape[1] for part in parts] if whole.dim() == 4 else []
        if sum(widths) != whole.shape[1] or len(parts) == 1:
            return parts
        if len(set(widths)) == 1:
            self.splits.append((whole, len(parts)))
        starts = [sum(widths[:i]) for i in range(len(widths))]
        return tuple(
            whole.narrow(1, start, width) for start, width in zip(starts, widths, strict=True)
        )

    def layers_behind(self, tensors: Iterable[Tensor]) -> set[str]:
        """The nearest convolutions that these tensors are computed from."""
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


@contextmanager
def hooks(codec: VideoCodec, watch: Watch) -> Iterator[None]:
    """Note what every layer makes, and every feature map that a decoder module yields.

    A linear layer makes channels of its own too: what it reads is no result, though its outputs
    may be.
    """

    def note(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple, output: Tensor) -> None:
            watch.edges.update((maker, name) for maker in watch.layers_behind(inputs))
            watch.producers[output.grad_fn] = name

        return hook

    def collect(_module: nn.Module, _inputs: object, output: object) -> None:
        tensors = output if isinstance(output, tuple | list) else (output,)
        watch.outputs += [
            x for x in tensors if isinstance(x, Tensor) and x.dim() == 4 and x.grad_fn
        ]

    added = [
        module.register_forward_hook(note(name))
        for name, module in codec.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.Linear))
    ]
    added += [
        codec.get_submodule(n).register_forward_hook(collect) for n in codec.decoder_modules()
    ]
    added += [
        module.register_forward_hook(watch.move)
        for module in codec.modules()
        if isinstance(module, MovedGroups)
    ]
    try:
        yield
    finally:
        for hook in added:
            hook.remove()
