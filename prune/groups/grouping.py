"""Channel groups: the channels of the decoder that can only be removed together.

A group's channel c stands for one set of output channels of its producers and input channels of
its consumers. What must not be removed is in no group but in `Channels.fixed`, with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from prune.groups.channels import Channels, Group, Member, is_boundary
from prune.groups.trace import Indices, Traced
from prune.groups.walk import Pulled
from prune.groups.watch import CONVOLUTIONS
from vcodecs import UserError, VideoCodec
from vcodecs.parts import module_of


def sort_out(codec: VideoCodec, traced: Traced) -> Channels:
    """Groups of the graph alone, removable ones and fixed ones apart."""
    groups = _merge_tied(codec, list(_groups(traced)))
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


def _groups(traced: Traced) -> Iterator[Group]:
    """The groups of all channels that layers make, in the order of the module tree."""
    seen: set[str] = set()
    graph = traced.graph
    for layer in traced.probe.modules():
        if layer not in graph.module2node or not isinstance(layer, CONVOLUTIONS):
            continue
        if layer in graph.IGNORED_LAYERS_IN_TRACING or traced.name(layer) in seen:
            continue
        group = _group(traced, layer)
        seen.update(m.layer for m in group.members if m.side == "out")
        yield group


def _group(traced: Traced, root: nn.Module) -> Group:
    """The group of all output channels of `root`."""
    name, size = traced.name_of(root), _outputs(traced, root)
    start = name, "out"
    reached = {
        _layer_and_side(traced, item)
        for item in _pulled_along(traced, start, range(size), apart=False)
    }
    if any(key in reached for bundle in traced.bundles for key in bundle):
        return _group_of_bundles(traced, name, size)
    found: dict[tuple[str, str], list[list[int]]] = {}
    for item in _pulled_along(traced, start, range(size)):
        rows = found.setdefault(_layer_and_side(traced, item), [[] for _ in range(size)])
        for local, channel in zip(item.indices, item.roots, strict=True):
            rows[channel].append(local)
    return Group(name, size, _members(found))


def _group_of_bundles(traced: Traced, root: str, size: int) -> Group:
    """The same where channels of some of the layers can only go together."""
    together: list[Indices] = []
    for i in range(size):
        if not any(i in found[root, "out"] for found in together):
            together.append(_all_that_goes(traced, root, i))
    keys = dict.fromkeys(key for found in together for key in found)
    rows = {key: [sorted(found.get(key, ())) for found in together] for key in keys}
    return Group(root, len(together), _members(rows))


def _all_that_goes(traced: Traced, root: str, index: int) -> Indices:
    """What must go when output `index` of `root` goes."""
    found: Indices = {}
    pending: Indices = {(root, "out"): {index}}
    while pending:
        start, indices = pending.popitem()
        for item in _pulled_along(traced, start, indices, apart=False):
            key = _layer_and_side(traced, item)
            new = set(item.indices) - found.setdefault(key, set())
            found[key] |= new
            for bundle in (b for i in new for b in traced.bundles_of.get((*key, i), ())):
                for other, mine in bundle.items():
                    if missing := mine - found.get(other, set()):
                        pending.setdefault(other, set()).update(missing)
    return found


def _pulled_along(
    traced: Traced, start: tuple[str, str], indices: Iterable[int], apart: bool = True
) -> list[Pulled]:
    """What goes with channels of one side of a layer, without what is no layer."""
    name, side = start
    layer = traced.layer(name)
    pruner = traced.graph.get_pruner_of_module(layer)
    prune = pruner.prune_in_channels if side == "in" else pruner.prune_out_channels
    found = traced.walk.pulled_along(layer, prune, indices, apart)
    return [item for item in found if traced.name(item.layer) is not None]


def _outputs(traced: Traced, layer: nn.Module) -> int:
    return traced.graph.get_pruner_of_module(layer).get_out_channels(layer)


def _layer_and_side(traced: Traced, item: Pulled) -> tuple[str, str]:
    layer = item.layer
    if not isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
        return traced.name_of(layer), "norm"
    outputs = traced.graph.is_out_channel_pruning_fn(item.prune)
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
