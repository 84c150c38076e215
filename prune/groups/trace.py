"""Tracing a codec's P frames for the dependency graph.

Torch-Pruning follows autograd's graph backwards. What would mislead it is put right here: tensors
that enter from outside or leave through the reference have no node (so offsets in a concatenation
come out wrong, and what is carried to the next frame looks unused), the sampling grid of a warp
ties the two motion channels to the features that it moves, as the offsets of a deformable
convolution and the weights of an attention would, the parts of a split lose their order, and what
is only entropy-coded never reaches the picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch_pruning as tp
from torch import Tensor, nn

from lvc.pictures import SIZE_MULTIPLE
from prune.groups.layer_rules import custom_pruners
from prune.groups.walk import Walk
from prune.groups.watch import Watch, hooks
from vcodecs import Reference, VideoCodec
from vcodecs.layers import GroupedConv


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
    walk: Walk
    """Over the graph."""

    @cached_property
    def bundles_of(self) -> dict[tuple[str, str, int], list[Indices]]:
        """Bundles by layer, side and channel."""
        found: dict[tuple[str, str, int], list[Indices]] = {}
        for bundle in self.bundles:
            for (layer, side), channels in bundle.items():
                for channel in channels:
                    found.setdefault((layer, side, channel), []).append(bundle)
        return found

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
    bundles = [
        *_split_bundles(watch),
        *_fetch_bundles(watch),
        *_group_bundles(probe.codec, watch),
    ]
    return Traced(probe, graph, steering, results, bundles, Walk(graph))


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


def _watch(probe: Probe, frame: Tensor, references: Sequence[Reference]) -> "Watch":
    """Code `frame` from each of the references under watch."""
    watch = Watch(probe.entries, probe.sums)
    with watch, hooks(probe.codec, watch):
        for reference in references:
            entered = probe.enter(reference)
            picture = probe.entries["frame"](frame)
            coded = probe.codec.code(picture, entered, probe.codec.rates()[0], None)
            watch.take(coded, probe.leave(coded.reference))
    return watch
