"""Tracing a codec's P frames for the dependency graph.

Torch-Pruning follows autograd's graph backwards. What would mislead it is put right here: tensors
that enter from outside or leave through the reference have no node (so offsets in a concatenation
come out wrong, and what is carried to the next frame looks unused), the sampling grid of a warp
ties the two motion channels to the features that it moves, as the offsets of a deformable
convolution and the weights of an attention would, the parts of a split lose their order, and what
is only entropy-coded never reaches the picture.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lvc.pictures import SIZE_MULTIPLE
from prune.groups.layer_rules import custom_pruners
from vcodecs import CodedFrame, Reference, VideoCodec
from vcodecs.layers import GroupedConv, SubpelConv
from vcodecs.motion import MovedGroups

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, SubpelConv)


BROADCASTING = frozenset(
    f"{form}{name}{form}" for name in ("mul", "add", "sub") for form in ("", "__")
) | {"__rmul__", "__radd__", "__rsub__", "multiply", "div", "true_divide", "__truediv__"}


class Boundary(nn.Conv2d):
    """An identity convolution that gives a tensor from or to the outside a node of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)
        nn.init.dirac_(self.weight)


class Sum(nn.Conv2d):
    """A sum over all channels, as a layer that reads them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 1, bias=False)
        nn.init.ones_(self.weight)


class Probe(nn.Module):
    """The codec behind boundaries: for the frame, and for each field of the reference both ways."""

    def __init__(self, codec: VideoCodec, reference: Reference) -> None:
        super().__init__()
        self.codec = codec
        widths = {key: value.shape[1] for key, value in reference.tensors().items()}
        entries = {f"reference_{key}": Boundary(width) for key, width in widths.items()}
        self.entries = nn.ModuleDict({"frame": Boundary(3), **entries})
        self.exits = nn.ModuleDict({f"reference_{key}": Boundary(w) for key, w in widths.items()})
        self.sums = nn.ModuleDict()

    def enter(self, reference: Reference) -> Reference:
        parts = reference.tensors().items()
        return reference.with_tensors({k: self.entries[f"reference_{k}"](x) for k, x in parts})

    def leave(self, reference: Reference) -> list[Tensor]:
        return [self.exits[f"reference_{key}"](x) for key, x in reference.tensors().items()]


Indices = dict[tuple[str, str], set[int]]
"""Channels by layer and side ("out", "in")."""


@dataclass
class Traced:
    """A dependency graph over `probe`, and what the trace saw on the way (names of layers)."""

    probe: Probe
    graph: tp.DependencyGraph
    steering: set[str]
    """Their outputs steer a warp."""
    results: set[str]
    """Their outputs are the picture, or are read by the entropy coder."""
    bundles: list[Indices]
    """What can only go together, beyond what the graph knows."""

    def layer(self, name: str) -> nn.Module:
        """A layer by its name within the codec, or as `entry:`, `exit:` or `sum:` with its name."""
        kind, _, added = name.partition(":")
        if not added:
            return self.probe.codec.get_submodule(name)
        probe = self.probe
        return {"entry": probe.entries, "exit": probe.exits, "sum": probe.sums}[kind][added]

    def name(self, layer: nn.Module | nn.Parameter) -> str | None:
        """The inverse of `layer`, also for a codec's own parameter; None for what is neither."""
        if isinstance(layer, nn.Parameter):
            full = self.graph._param_to_name.get(layer)
        else:
            full = self.graph._module2name.get(layer)
        place, _, name = (full or "").partition(".")
        if place == "codec":
            return name
        kind = {"entries": "entry", "exits": "exit", "sums": "sum"}.get(place)
        return f"{kind}:{name}" if kind else None

    def name_of(self, layer: nn.Module) -> str:
        """`name` of what is known to be a layer."""
        name = self.name(layer)
        assert name is not None, layer
        return name


def trace(codec: VideoCodec) -> Traced:
    """Build the dependency graph of a P frame behind another, with its full reference.

    And of later ones, and of one behind an I frame, where a layer then reads what it otherwise
    does not.

    The codec is left as it was; no random numbers are drawn from torch's global generator.
    """
    training = codec.training
    wanted = {p: p.requires_grad for p in codec.parameters()}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        device = next(codec.parameters()).device
        frame = torch.rand(1, 3, SIZE_MULTIPLE, SIZE_MULTIPLE, device=device)
        full, *later = _full_references(codec.eval(), frame)
        probe = Probe(codec, full).to(device).eval()
        probe.requires_grad_(True)  # frozen parameters would be missing from the graph
        # A first pass finds the constants that the codec concatenates, which need boundaries as
        # well, and its sums.
        references = [full]
        first = _watch(probe, frame, references)
        for other in (*later, Reference(full.frame)):
            if not _watch(probe, frame, [other]).edges <= first.edges:
                references.insert(0, other)
                first = _watch(probe, frame, references)
        boundaries = {name: Boundary(width).to(device) for name, width in first.constants.items()}
        probe.entries.update(boundaries)
        probe.sums.update({str(i): Sum(width).to(device) for i, width in enumerate(first.sums)})
        traced = _build(probe, frame, references)
    codec.train(training)
    for parameter, state in wanted.items():
        parameter.requires_grad_(state)
    return traced


def _build(probe: Probe, frame: Tensor, references: Sequence[Reference]) -> Traced:
    seen: list[Watch] = []

    def forward(model: Probe, _: object) -> list[Tensor]:
        seen.append(_watch(model, frame, references))
        return seen[0].outputs

    graph = tp.DependencyGraph()
    graph.build_dependency(
        probe,
        (torch.zeros(1),),
        forward_fn=forward,
        customized_pruners=custom_pruners(),
        verbose=False,
    )
    watch = seen[0]
    for node in graph.module2node.values():
        if node.grad_fn in watch.concatenated:
            # Torch-Pruning guesses these widths from the neighbours, and errs behind a slice.
            node.module.concat_sizes = watch.concatenated[node.grad_fn]
    steering, results = watch.layers_behind(watch.grids), watch.layers_behind(watch.results)
    bundles = (*_split_bundles(watch), *_fetch_bundles(watch), *_group_bundles(probe.codec, watch))
    return Traced(probe, graph, steering, results, list(bundles))


def _split_bundles(watch: "Watch") -> Iterator[Indices]:
    """Where a tensor is split in equal parts, each has to lose the same channels."""
    for whole, parts in watch.splits:
        step = whole.shape[1] // parts
        for name in watch.layers_behind([whole]):
            for i in range(step):
                yield {(name, "out"): {i + k * step for k in range(parts)}}


def _fetch_bundles(watch: "Watch") -> Iterator[Indices]:
    """Channels that a deformable convolution fetches by the same offsets go with these."""
    for fetch in watch.fetches:
        layer = watch.producers[fetch.moved.grad_fn]
        channels = fetch.inputs // fetch.groups
        coordinates = fetch.offsets.shape[1] // fetch.groups
        for name in watch.layers_behind([fetch.offsets]):
            for g in range(fetch.groups):
                yield {
                    (layer, "in"): set(range(g * channels, (g + 1) * channels)),
                    (name, "out"): set(range(g * coordinates, (g + 1) * coordinates)),
                }


def _group_bundles(codec: VideoCodec, watch: "Watch") -> Iterator[Indices]:
    """Equal, consecutive groups of channels stay equal: each loses the same ones."""
    for x, groups in watch.moved:
        for name in watch.layers_behind([x]):
            yield from _alike(name, "out", x.shape[1], groups)
    for name, layer in codec.named_modules():
        if isinstance(layer, GroupedConv):
            yield from _alike(name, "in", layer.in_channels, layer.groups)
            yield from _alike(name, "out", layer.out_channels, layer.groups)


def _alike(name: str, side: str, channels: int, groups: int) -> Iterator[Indices]:
    each = channels // groups
    for i in range(each):
        yield {(name, side): {i + g * each for g in range(groups)}}


@torch.no_grad()
def _full_references(codec: VideoCodec, frame: Tensor) -> list[Reference]:
    """References with every field that the codec uses: those behind the first P frames, as many
    as take turns."""
    reference, found = Reference(frame.flip(-1)), []
    for _ in range(codec.turns):
        reference = codec.code(frame, reference, codec.rates()[0], None).reference
        found.append(reference)
    return found


# ---------------------------------------------------------------------- watching a pass


def _watch(probe: Probe, frame: Tensor, references: Sequence[Reference]) -> "Watch":
    """Code `frame` from each of the references under watch."""
    watch = Watch(probe)
    with watch, _hooks(probe.codec, watch):
        for reference in references:
            entered = probe.enter(reference)
            picture = probe.entries["frame"](frame)
            coded = probe.codec.code(picture, entered, probe.codec.rates()[0], None)
            watch.take(coded, probe.leave(coded.reference))
    return watch


class Fetch(NamedTuple):
    """A deformable convolution: what it made of `inputs` channels, whose offsets are in groups."""

    moved: Tensor
    offsets: Tensor
    inputs: int
    groups: int


class Watch(TorchFunctionMode):
    """Sees every torch function of a pass, and rewrites those that the graph gets wrong."""

    def __init__(self, probe: Probe) -> None:
        super().__init__()
        self.entries, self.sum_layers = probe.entries, probe.sums
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
def _hooks(codec: VideoCodec, watch: Watch) -> Iterator[None]:
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

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in codec.named_modules()
        if isinstance(module, (*CONVOLUTIONS, nn.Linear))
    ]
    hooks += [
        codec.get_submodule(n).register_forward_hook(collect) for n in codec.decoder_modules()
    ]
    hooks += [
        module.register_forward_hook(watch.move)
        for module in codec.modules()
        if isinstance(module, MovedGroups)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
