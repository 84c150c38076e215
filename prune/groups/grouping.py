"""Channel groups: the channels of the decoder that can only be removed together.

A group's channel c stands for one set of output channels of its producers and input channels of
its consumers. What must not be removed is in no group but in `Channels.fixed`, with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from prune.groups.channels import Channels, Group, Member, is_boundary
from prune.groups.trace import CONVOLUTIONS, Indices, Traced
from vcodecs import UserError, VideoCodec
from vcodecs.parts import module_of


def sort_out(codec: VideoCodec, traced: Traced) -> Channels:
    """Groups of the graph alone, removable ones and fixed ones apart."""
    groups = _merge_tied(codec, _groups(traced))
    place = {name: i for i, (name, _) in enumerate(codec.named_modules())}
    order = {name: i for i, name in enumerate(codec.decoder_modules())}
    channels = Channels(())
    removable = []
    for group in groups:
        made_here = [m.layer for m in group.producers() if module_of(m.layer, order)]
        if not made_here:
            continue
        reason = _why_fixed(codec, traced, group)
        if reason is None:
            removable.append(replace(group, name=min(made_here, key=place.__getitem__)))
        else:
            channels.fixed |= dict.fromkeys(made_by(codec, group), reason)
    removable.sort(key=lambda g: (order[module_of(g.name, order)], place[g.name]))
    channels.groups = tuple(removable)
    _explain_the_rest(codec, channels)
    return channels


# ---------------------------------------------------------------------- building


def _groups(traced: Traced) -> list[Group]:
    """The groups of all channels that layers make, in the order of the module tree."""
    seen: set[str] = set()
    groups: list[Group] = []
    graph = traced.graph
    for layer in traced.probe.modules():
        if layer not in graph.module2node or not isinstance(layer, CONVOLUTIONS):
            continue
        if layer in graph.IGNORED_LAYERS_IN_TRACING or traced.name(layer) in seen:
            continue
        name = traced.name_of(layer)
        group = _group(traced, (name, "out"), range(_outputs(traced, layer)))
        seen.update(m.layer for m in group.members if m.side == "out")
        groups.append(group)
    return _bundled([*groups, *_left_over(traced, groups)], traced.bundles)


def _left_over(traced: Traced, groups: list[Group]) -> Iterator[Group]:
    """Groups of what bundles name and these leave out, such as the other part of a split."""
    named: Indices = {}
    for bundle in traced.bundles:
        for key, indices in bundle.items():
            named.setdefault(key, set()).update(indices)
    for group in groups:
        for member in group.members:
            if (key := (member.layer, member.side)) in named:
                named[key].difference_update(i for row in member.channels for i in row)
    for key, indices in named.items():
        if indices:
            yield _group(traced, key, sorted(indices))


def _group(traced: Traced, root: tuple[str, str], indices: Sequence[int]) -> Group:
    """The group of these channels of one side of a layer, as the graph knows it."""
    place = {index: channel for channel, index in enumerate(indices)}
    found: dict[tuple[str, str], list[list[int]]] = {}
    for item in _pulled_along(traced, root, indices):
        rows = found.setdefault(_layer_and_side(traced, item), [[] for _ in indices])
        for local, index in zip(item.idxs, item.root_idxs, strict=True):
            rows[place[index]].append(local)
    return Group(root[0], len(indices), _members(found))


def _bundled(groups: list[Group], bundles: Sequence[Indices]) -> list[Group]:
    """The same where channels of some of the layers can only go together."""
    keys = {key for bundle in bundles for key in bundle}
    places: dict[tuple[str, str, int], tuple[int, int]] = {}
    """Group and channel of each index of a layer's side that a bundle could name."""
    for g, group in enumerate(groups):
        for member in group.members:
            if (key := (member.layer, member.side)) in keys:
                for c, row in enumerate(member.channels):
                    places.update(((*key, i), (g, c)) for i in row)
    together = _Sets()
    for bundle in bundles:
        named = [(*key, i) for key, indices in bundle.items() for i in sorted(indices)]
        found = [places[name] for name in named if name in places]
        for place in found[1:]:
            together.join(found[0], place)
    owners = _Sets()  # of groups that bundles make one of
    for g, c in together.all():
        owners.join(g, together.first((g, c))[0])
    mine: dict[int, list[int]] = {}
    for g in range(len(groups)):
        mine.setdefault(owners.first(g), []).append(g)
    return [_joined([(g, groups[g]) for g in parts], together) for parts in mine.values()]


def _joined(parts: Sequence[tuple[int, Group]], together: "_Sets") -> Group:
    """One group of these, in which channels that are together are one."""
    first = parts[0][1]
    channels: dict = {}
    for g, group in parts:
        for c in range(group.size):
            channels.setdefault(together.first((g, c)), len(channels))
    if len(parts) == 1 and len(channels) == first.size:
        return first
    rows: dict[tuple[str, str], list[set[int]]] = {}
    for g, group in parts:
        for member in group.members:
            key = member.layer, member.side
            own = rows.setdefault(key, [set() for _ in channels])
            for c, row in enumerate(member.channels):
                own[channels[together.first((g, c))]].update(row)
    listed = {key: [sorted(row) for row in own] for key, own in rows.items()}
    return Group(first.name, len(channels), _members(listed))


class _Sets:
    """Disjoint sets of what is comparable; each is known by the least of it."""

    def __init__(self) -> None:
        self._above: dict = {}

    def first(self, item):  # noqa: ANN001
        while (above := self._above.get(item, item)) != item:
            item = above
        return item

    def join(self, a, b) -> None:  # noqa: ANN001
        least, other = sorted((self.first(a), self.first(b)))
        for item in (a, b, other):
            self._above[item] = least

    def all(self) -> list:
        """What has been joined to something."""
        return list(self._above)


def _pulled_along(traced: Traced, start: tuple[str, str], indices: Iterable[int]) -> list:
    """Torch-Pruning's group for channels of one side of a layer, without what is no layer."""
    name, side = start
    layer = traced.layer(name)
    pruner = traced.graph.get_pruner_of_module(layer)
    prune = pruner.prune_in_channels if side == "in" else pruner.prune_out_channels
    group = traced.graph.get_pruning_group(layer, prune, list(indices))
    return [item for item in group if traced.name(item.dep.target.module) is not None]


def _outputs(traced: Traced, layer: nn.Module) -> int:
    return traced.graph.get_pruner_of_module(layer).get_out_channels(layer)


def _layer_and_side(traced: Traced, item) -> tuple[str, str]:  # noqa: ANN001
    layer = item.dep.target.module
    if not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return traced.name_of(layer), "norm"
    outputs = traced.graph.is_out_channel_pruning_fn(item.dep.handler)
    return traced.name_of(layer), "out" if outputs else "in"


def _members(found: Mapping[tuple[str, str], Sequence[Sequence[int]]]) -> tuple[Member, ...]:
    return tuple(
        Member(layer, side, tuple(map(tuple, rows))) for (layer, side), rows in found.items()
    )


def _merge_tied(codec: VideoCodec, groups: list[Group]) -> list[Group]:
    """Join what leaves through the reference with what re-enters from it."""
    for name, layer in codec.tied_channels():
        exit_, entry = f"exit:reference_{name}", f"entry:reference_{name}"
        leaving = next((g for g in groups if _member(g, layer, "out")), None)
        entering = next((g for g in groups if _member(g, entry, "out")), None)
        left = None if leaving is None else _member(leaving, exit_, "in")
        entered = None if entering is None else _member(entering, entry, "out")
        if leaving is None or entering is None or left is None or entered is None:
            raise UserError(
                f"{codec.name}.tied_channels(): {layer!r} and reference field {name!r} have to be "
                "the layer that makes this field, and a field that the decoder reads"
            )
        if leaving is entering:
            continue
        outside, inside = left.channels, entered.channels
        if sorted(outside) != sorted(inside):
            raise UserError(
                f"{codec.name}.tied_channels(): {layer!r} makes only a part of {name!r}"
            )
        order = [inside.index(row) for row in outside]
        members = [
            replace(m, channels=tuple(m.channels[i] for i in order)) for m in entering.members
        ]
        groups = [g for g in groups if g is not leaving and g is not entering]
        groups.append(replace(leaving, members=(*leaving.members, *members)))
    return groups


def _member(group: Group, layer: str, side: str) -> Member | None:
    return next((m for m in group.members if (m.layer, m.side) == (layer, side)), None)


# ---------------------------------------------------------------------- what stays, and why


def _why_fixed(codec: VideoCodec, traced: Traced, group: Group) -> str | None:
    tied = {f"reference_{name}" for name, _ in codec.tied_channels()}
    makers = [m.layer for m in group.producers()]
    inside = codec.decoder_modules()
    boundaries = [m.layer.partition(":") for m in group.members if is_boundary(m.layer)]
    for kind, _, name in boundaries:
        if kind == "entry" and name not in tied and not name.startswith("nothing"):
            what = "a constant" if name.startswith("constant") else f"the {name.replace('_', ' ')}"
            return f"tied to {what}, which comes from outside with all its channels"
    if traced.steering.intersection(makers):
        return "a motion vector: its two channels are x and y"
    if any(not module_of(name, inside) for name in traced.results.intersection(makers)):
        return "tied to what the encoder makes and sends: a latent keeps its channels"
    if traced.results.intersection(makers) or not (group.consumers() or group.is_summed()):
        return "a result of the decoder: shown, or read by the entropy coder"
    for kind, _, name in boundaries:
        if kind == "exit" and name not in tied:
            kept = name.removeprefix("reference_")
            return f"leaves as the reference's {kept}, which tied_channels() does not name"
    if any(len({len(row) for row in m.channels}) > 1 for m in group.members):
        return "its channels are not alike: a slice or a sum takes only some of them"
    return None


def _explain_the_rest(codec: VideoCodec, channels: Channels) -> None:
    """Every other layer of the decoder with weights gets its reason too."""
    known = {m.layer for g in channels.groups for m in g.members if m.side != "in"}
    inside = codec.decoder_modules()
    for name in inside:
        module = codec.get_submodule(name)
        if not any(isinstance(layer, (*CONVOLUTIONS, nn.Linear)) for layer in module.modules()):
            channels.fixed[name] = "no convolution: it has one entry for each channel of a symbol"
    for name, layer in codec.named_modules():
        has_weights = any(True for _ in layer.parameters(recurse=False))
        # What is inside a layer that Torch-Pruning knows as one goes with it.
        explained = not (known | channels.fixed.keys()).isdisjoint(_with_parents(name))
        if has_weights and module_of(name, inside) and not explained:
            linear = isinstance(layer, nn.Linear)
            channels.fixed[name] = (
                "a linear layer of its own: only the channels of convolutions are removed"
                if linear
                else "not reached by the dependency graph of a P frame"
            )


def made_by(codec: VideoCodec, group: Group) -> list[str]:
    """Layers of the decoder that make or rescale a group's channels."""
    inside = codec.decoder_modules()
    return [m.layer for m in group.members if m.side != "in" and module_of(m.layer, inside)]


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
