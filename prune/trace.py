"""Tracing a codec's P frame for the dependency graph.

Torch-Pruning follows autograd's graph backwards. Three things would mislead it, and are put right
here: tensors that enter from outside have no node (so offsets in a concatenation come out wrong),
the sampling grid of a warp ties the two motion channels to the features that it moves, and
results that are only entropy-coded never reach the picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from prune.pruners import custom_pruners
from vcodecs import Reference, VideoCodec
from vcodecs.layers import SubpelConv

SIDE = 64
CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, SubpelConv)


class Entry(nn.Conv2d):
    """An identity convolution that gives a tensor from outside a node of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, bias=False)
        nn.init.dirac_(self.weight)


class Probe(nn.Module):
    """The codec behind entries for the frame and every field of the reference."""

    def __init__(self, codec: VideoCodec, reference: Reference) -> None:
        super().__init__()
        self.codec = codec
        self.entries = nn.ModuleDict({"frame": Entry(3)})
        for name, value in vars(reference).items():
            if value is not None:
                self.entries[f"reference_{name}"] = Entry(value.shape[1])


@dataclass
class Traced:
    """A dependency graph over `probe`, and what the trace saw on the way."""

    probe: Probe
    graph: tp.DependencyGraph
    grid_layers: set[str]
    """Layers of the codec whose outputs steer a warp."""

    def layer(self, name: str) -> nn.Module:
        """A layer by its name within the codec, or an entry as `entry:NAME`."""
        if name.startswith("entry:"):
            return self.probe.entries[name.removeprefix("entry:")]
        return self.probe.codec.get_submodule(name)

    def name(self, layer: nn.Module) -> str | None:
        """The inverse of `layer`; None for what is no layer of either."""
        if not isinstance(layer, nn.Module):
            return None
        full = self.graph._module2name.get(layer)
        if full is None or full.startswith("codec."):
            return full and full.removeprefix("codec.")
        return "entry:" + full.removeprefix("entries.") if full.startswith("entries.") else None


def trace(codec: VideoCodec) -> Traced:
    """Build the dependency graph of one P frame, every field of the reference present.

    `codec` itself becomes part of the probe: removing channels through the graph changes it.
    """
    reference = full_reference(codec)
    probe = Probe(codec, reference).eval()
    wanted = {p: p.requires_grad for p in probe.parameters()}
    probe.requires_grad_(True)  # frozen parameters would be missing from the graph
    producers: dict[object, str] = {}
    grids: list[Tensor] = []
    results: list[Tensor] = []

    def forward(model: Probe, _: object) -> list[Tensor]:
        parts = {
            name: model.entries[f"reference_{name}"](value)
            for name, value in vars(reference).items()
            if value is not None
        }
        frame = model.entries["frame"](torch.rand(1, 3, SIDE, SIDE))
        with _recorded_layers(model.codec, producers), _detached_grids(grids):
            coded = model.codec.code(frame, Reference(**parts), model.codec.rates()[0], None)
        return [coded.frame, *results]

    hooks = [
        codec.get_submodule(name).register_forward_hook(lambda _m, _i, out: _collect(out, results))
        for name in codec.decoder_modules()
    ]
    graph = tp.DependencyGraph()
    example = (torch.zeros(1),)
    with torch.enable_grad():
        graph.build_dependency(
            probe,
            example,
            forward_fn=forward,
            customized_pruners=custom_pruners(),
            verbose=False,
        )
    for hook in hooks:
        hook.remove()
    for parameter, state in wanted.items():
        parameter.requires_grad_(state)
    steering = {name for grid in grids for name in _layers_behind(grid, producers)}
    return Traced(probe, graph, steering)


@torch.no_grad()
def full_reference(codec: VideoCodec) -> Reference:
    """A reference with every field that the codec uses: the one behind a first P frame."""
    training = codec.training
    codec.eval()
    device = next(codec.parameters()).device
    frame = torch.rand(1, 3, SIDE, SIDE, device=device)
    coded = codec(frame, Reference(frame), codec.rates()[0])
    codec.train(training)
    return coded.reference


def _collect(output: object, results: list[Tensor]) -> None:
    tensors = output if isinstance(output, tuple | list) else (output,)
    results += [t for t in tensors if isinstance(t, Tensor) and t.dim() == 4 and t.grad_fn]


@contextmanager
def _recorded_layers(codec: nn.Module, producers: dict[object, str]) -> Iterator[None]:
    """Note which convolution made which node of the autograd graph."""

    def note(name: str):
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            producers[output.grad_fn] = name

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in codec.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _detached_grids(grids: list[Tensor]) -> Iterator[None]:
    """Cut the edge from a warp's grid to what it moves, and remember the grid."""
    original = F.grid_sample

    def sample(x: Tensor, grid: Tensor, *args: object, **kwargs: object) -> Tensor:
        grids.append(grid)
        return original(x, grid.detach(), *args, **kwargs)

    F.grid_sample = sample
    try:
        yield
    finally:
        F.grid_sample = original


def _layers_behind(tensor: Tensor, producers: dict[object, str]) -> set[str]:
    """The nearest convolutions that `tensor` is computed from."""
    found, seen, stack = set(), set(), [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in producers:
            found.add(producers[node])
        else:
            stack += [following for following, _ in node.next_functions]
    return found
