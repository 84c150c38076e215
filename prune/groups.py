"""Channel groups: the channels of the decoder that can only be removed together.

A group's channel c stands for one set of output channels of its producers and input channels of
its consumers. What must not be removed is in no group but in `Channels.fixed`, with the reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from torch_pruning import ops

from prune.trace import CONVOLUTIONS, Traced, trace
from vcodecs import UserError, VideoCodec
from vcodecs.layers import GDN


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group. `channels[c]` are its indices that go with channel c."""

    layer: str
    side: str
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """`size` channels that each go as a whole; named after the first layer that produces them.

    `roots`: layers whose outputs, removed, take everything else along in the dependency graph.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    roots: tuple[Member, ...]

    def producers(self) -> tuple[Member, ...]:
        """Members on the output side, normalisations left out."""
        return tuple(m for m in self.members if m.side == "out")

    def consumers(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.side == "in")


@dataclass
class Channels:
    """What can be removed from a codec's decoder, and what cannot and why."""

    groups: tuple[Group, ...]
    fixed: dict[str, str] = field(default_factory=dict)
    """Layer name -> why its output channels stay."""


def find_groups(codec: VideoCodec) -> Channels:
    """The channel groups of `codec`'s decoder by Torch-Pruning's dependency graph."""
    return sort_out(codec, trace(codec))


def sort_out(codec: VideoCodec, traced: Traced) -> Channels:
    """Groups of a graph that is traced already, removable ones and fixed ones apart."""
    groups = _merge_tied(codec, [_group(traced, root) for root in _roots(traced)])
    channels = Channels(())
    removable = []
    inside = set(codec.decoder_modules())
    place = {name: i for i, (name, _) in enumerate(codec.named_modules())}
    for group in groups:
        made_here = [m.layer for m in group.producers() if _module_of(m.layer) in inside]
        made_here.sort(key=place.get)
        if not made_here:
            continue
        reason = _why_fixed(codec, traced, group)
        if reason is None:
            removable.append(replace(group, name=made_here[0]))
        else:
            channels.fixed.update(dict.fromkeys(made_here, reason))
    order = {name: i for i, name in enumerate(codec.decoder_modules())}
    removable.sort(key=lambda g: (order[_module_of(g.name)], place[g.name]))
    channels.groups = tuple(removable)
    _explain_the_rest(codec, channels)
    return channels


def remove(codec: VideoCodec, kept: dict[str, Sequence[int]]) -> None:
    """Physically remove, in place, every channel that `kept` (by group name) does not list.

    Errors: UserError when a name is no group of this codec or an index is out of range.
    """
    traced = trace(codec)
    groups = {group.name: group for group in sort_out(codec, traced).groups}
    for name, indices in kept.items():
        group = groups.get(name)
        if group is None or any(not 0 <= i < group.size for i in indices):
            raise UserError(f"kept channels of {name!r} do not fit this codec")
    for name, indices in kept.items():
        gone = sorted(set(range(groups[name].size)) - set(indices))
        for root in groups[name].roots if gone else ():
            layer = traced.layer(root.layer)
            prune = traced.graph.get_pruner_of_module(layer).prune_out_channels
            removed = sorted(i for c in gone for i in root.channels[c])
            traced.graph.get_pruning_group(layer, prune, removed).prune(record_history=False)


# ---------------------------------------------------------------------- building


def _roots(traced: Traced) -> Iterable[nn.Module]:
    """One producing layer of every group, in the order of the module tree."""
    seen: set[nn.Module] = set()
    graph = traced.graph
    for layer in traced.probe.modules():
        if layer in seen or layer not in graph.module2node or not isinstance(layer, CONVOLUTIONS):
            continue
        if layer in graph.IGNORED_LAYERS_IN_TRACING:
            continue
        pruner = graph.get_pruner_of_module(layer)
        everything = list(range(pruner.get_out_channels(layer)))
        for item in graph.get_pruning_group(layer, pruner.prune_out_channels, everything):
            if graph.is_out_channel_pruning_fn(item.dep.handler):
                seen.add(item.dep.target.module)
        yield layer


def _group(traced: Traced, root: nn.Module) -> Group:
    graph = traced.graph
    prune = graph.get_pruner_of_module(root).prune_out_channels
    size = graph.get_pruner_of_module(root).get_out_channels(root)
    whole = graph.get_pruning_group(root, prune, list(range(size)))
    parts = _split_parts(whole)
    if parts == 1:
        sets = [(i,) for i in range(size)]
        members = [_member(traced, item, size) for item in whole if _is_layer(traced, item)]
    else:
        # A tensor that is split in equal parts must lose the same channels in each of them.
        sets = [tuple(range(i, size, size // parts)) for i in range(size // parts)]
        members = _members_of_sets(traced, root, sets)
    name = traced.name(root)
    root_member = Member(name, "out", tuple(sets))
    return Group(name, len(sets), tuple(members), (root_member,))


def _is_layer(traced: Traced, item) -> bool:  # noqa: ANN001
    return traced.name(item.dep.target.module) is not None


def _member(traced: Traced, item, size: int) -> Member:  # noqa: ANN001
    channels: list[list[int]] = [[] for _ in range(size)]
    for local, root in zip(item.idxs, item.root_idxs, strict=True):
        channels[root].append(local)
    return Member(*_layer_and_side(traced, item), tuple(tuple(c) for c in channels))


def _members_of_sets(
    traced: Traced, root: nn.Module, sets: Sequence[tuple[int, ...]]
) -> list[Member]:
    prune = traced.graph.get_pruner_of_module(root).prune_out_channels
    found: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for c, indices in enumerate(sets):
        for item in traced.graph.get_pruning_group(root, prune, list(indices)):
            if not _is_layer(traced, item):
                continue
            row = found.setdefault(_layer_and_side(traced, item), [()] * len(sets))
            row[c] = tuple(sorted(item.idxs))
    return [Member(layer, side, tuple(rows)) for (layer, side), rows in found.items()]


def _layer_and_side(traced: Traced, item) -> tuple[str, str]:  # noqa: ANN001
    layer = item.dep.target.module
    if isinstance(layer, GDN):
        return traced.name(layer), "norm"
    outputs = traced.graph.is_out_channel_pruning_fn(item.dep.handler)
    return traced.name(layer), "out" if outputs else "in"


def _split_parts(group) -> int:  # noqa: ANN001
    """In how many equal parts the tensor made by the group's root is split (1: not at all)."""
    parts = 1
    for item in group:
        if item.dep.target.type == ops.OPTYPE.SPLIT:
            sizes = getattr(item.dep.target.module, "split_sizes", None) or []
            if len(sizes) > 1 and len(set(sizes)) == 1:
                parts = max(parts, len(sizes))
    return parts


def _merge_tied(codec: VideoCodec, groups: list[Group]) -> list[Group]:
    """Join what leaves through the reference with what re-enters from it."""
    for entry_field, layer in codec.tied_channels():
        entry = f"entry:reference_{entry_field}"
        leaving = _find(groups, layer)
        entering = _find(groups, entry)
        if leaving is None or entering is None:
            raise UserError(
                f"{codec.name}.tied_channels(): {layer!r} and reference field {entry_field!r} "
                "have to be an output layer and a field that the decoder reads"
            )
        if leaving is entering:
            continue
        if leaving.size != entering.size:
            raise UserError(f"{codec.name}.tied_channels(): {layer!r} and {entry_field!r} differ")
        groups = [g for g in groups if g is not leaving and g is not entering]
        members = leaving.members + entering.members
        groups.append(Group(leaving.name, leaving.size, members, leaving.roots + entering.roots))
    return groups


def _find(groups: list[Group], producer: str) -> Group | None:
    return next((g for g in groups if any(m.layer == producer for m in g.producers())), None)


# ---------------------------------------------------------------------- what stays, and why


def _why_fixed(codec: VideoCodec, traced: Traced, group: Group) -> str | None:
    inside = set(codec.decoder_modules())
    tied = {f"entry:reference_{name}" for name, _ in codec.tied_channels()}
    made_by = [m.layer for m in group.producers()]
    if any(not name.startswith("entry:") and _module_of(name) not in inside for name in made_by):
        return "its channels are added to or shared with a tensor that the encoder makes"
    outside = [n for n in made_by if n.startswith("entry:") and n not in tied]
    if outside:
        name = outside[0].removeprefix("entry:").replace("_", " ")
        return f"tied to the {name}, which comes from outside with all its channels"
    if traced.grid_layers.intersection(made_by):
        return "a motion vector: its two channels are x and y"
    if not group.consumers():
        return "a result of the decoder: shown, or read by the entropy coder"
    covered = [len(rows) for m in group.members for rows in m.channels]
    if min(covered) == 0:
        return "its channels cannot be told apart behind a split or a sum"
    return None


def _explain_the_rest(codec: VideoCodec, channels: Channels) -> None:
    """Every other layer of the decoder with weights gets its reason too."""
    known = {m.layer for g in channels.groups for m in g.members if m.side != "in"}
    for name in codec.decoder_modules():
        module = codec.get_submodule(name)
        if not any(isinstance(layer, CONVOLUTIONS) for layer in module.modules()):
            channels.fixed[name] = "no convolution: it has one entry for each channel of a symbol"
    for name, layer in codec.named_modules():
        # The convolution inside a sub-pixel convolution goes with it.
        inner = name.rpartition(".")[0]
        if inner in known or inner in channels.fixed or name in known:
            continue
        if isinstance(layer, CONVOLUTIONS) and _module_of(name) in codec.decoder_modules():
            channels.fixed.setdefault(name, "not reached by the dependency graph of a P frame")


def _module_of(layer: str) -> str:
    return layer.split(".", 1)[0]
