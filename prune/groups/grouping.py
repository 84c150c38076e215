"""Channel groups: the channels of the decoder that can only be removed together.

A group's channel c stands for one set of output channels of its producers and input channels of
its consumers. What must not be removed is in no group but in `Channels.fixed`, with the reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.modules.conv import _ConvNd
from torchvision.ops import DeformConv2d

from prune.groups.channels import Channels, Group, Member, is_boundary
from prune.groups.leaves import makes_channels
from prune.groups.trace import Traced
from vcodecs import UserError, VideoCodec
from vcodecs.layers import GroupedConv
from vcodecs.parts import module_of


def sort_out(codec: VideoCodec, traced: Traced) -> Channels:
    """Groups of the graph alone, removable ones and fixed ones apart."""
    _tie_carried(codec, traced)
    groups = _groups(codec, traced)
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
    channels.groups = _numbered(removable)
    explain_the_rest(codec, channels)
    return channels


def _numbered(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Names of their own for groups that are parts of one layer's channels."""
    met = Counter[str]()
    named = []
    for group in groups:
        met[group.name] += 1
        count = met[group.name]
        name = group.name if count == 1 else f"{group.name}.part{count}"
        named.append(replace(group, name=name))
    return tuple(named)


# ---------------------------------------------------------------------- building


def _groups(codec: VideoCodec, traced: Traced) -> list[Group]:
    """The groups of all channels that layers make, or that enter from outside."""
    atoms = traced.book.atoms
    classes = atoms.classes()
    place = {name: i for i, (name, _) in enumerate(codec.named_modules())}
    sides = sorted(atoms.sides(), key=lambda s: place.get(s[0], len(place)))
    together = _joined_by_layers(classes, [span for _, side, span in sides if side == "out"])
    order: dict[int, dict[int, int]] = {}
    for _, side, span in sides:
        if side == "out":
            for atom in span:
                channels = order.setdefault(together[classes[atom]], {})
                channels.setdefault(classes[atom], len(channels))
    found: dict[int, list[Member]] = {root: [] for root in order}
    for layer, side, span in sides:
        rows: dict[int, list[list[int]]] = {}
        for i, atom in enumerate(span):
            root = together.get(classes[atom])
            if root is not None:
                if root not in rows:
                    rows[root] = [[] for _ in order[root]]
                rows[root][order[root][classes[atom]]].append(i)
        for root, indices in rows.items():
            member = _member_of(codec, layer, side, indices)
            if member is not None:
                found[root].append(member)
    return [
        part
        for root, members in found.items()
        for part in _alike(Group(members[0].layer, len(order[root]), tuple(members)))
    ]


MOST_PARTS = 16
"""Groups of one layer's channels, above which they are not alike."""


def _alike(group: Group) -> list[Group]:
    """The group, or where slices and sums take only some of its channels, one for each kind."""
    kinds: dict[tuple[int, ...], list[int]] = {}
    for c in range(group.size):
        kinds.setdefault(tuple(len(m.channels[c]) for m in group.members), []).append(c)
    if len(kinds) > MOST_PARTS:
        return [group]
    parts = []
    for kind, mine in kinds.items():
        there = [m for m, count in zip(group.members, kind, strict=True) if count]
        members = tuple(replace(m, channels=tuple(m.channels[c] for c in mine)) for m in there)
        parts.append(Group(members[0].layer, len(mine), members))
    return parts


def _joined_by_layers(classes: Sequence[int], outputs: Sequence[range]) -> dict[int, int]:
    """By class what stands for its group: classes that one layer makes are of one group."""
    parents: dict[int, int] = {}

    def root(x: int) -> int:
        while parents.setdefault(x, x) != x:
            x = parents[x]
        return x

    for span in outputs:
        for atom in span:
            first, second = sorted((root(classes[span[0]]), root(classes[atom])))
            parents[second] = first
    return {x: root(x) for x in list(parents)}


def _member_of(
    codec: VideoCodec, layer: str, side: str, rows: Sequence[Sequence[int]]
) -> Member | None:
    """One side of a layer; None for the inputs of grouped convolutions, which go with its outputs.

    Of a parameter of its own, entries become indices along the one dimension that has channels.
    """
    if side == "in" and not is_boundary(layer):
        target = codec.get_submodule(layer)
        grouped = isinstance(target, _ConvNd | DeformConv2d) and target.groups > 1
        if grouped and not isinstance(target, GroupedConv):
            return None
    elif side == "norm" and (shape := _shape_of_parameter(codec, layer)):
        return _member_of_parameter(layer, shape, rows)
    return Member(layer, side, tuple(map(tuple, rows)))


def _shape_of_parameter(codec: VideoCodec, name: str) -> torch.Size | None:
    parent, _, key = name.rpartition(".")
    value = getattr(codec.get_submodule(parent), key)
    return value.shape if isinstance(value, torch.Tensor) else None


def _member_of_parameter(name: str, shape: torch.Size, rows: Sequence[Sequence[int]]) -> Member:
    channel = torch.full((shape.numel(),), -1)
    for c, entries in enumerate(rows):
        channel[list(entries)] = c
    channel = channel.view(shape)
    for dim in reversed(range(len(shape))):
        line = channel
        for other in range(len(shape)):
            line = line if other == dim else line.narrow(other, 0, 1)
        if shape[dim] > 1 and bool((channel == line).all()):
            places = line.flatten().tolist()
            along = [[i for i, c in enumerate(places) if c == k] for k in range(len(rows))]
            return Member(name, "norm", tuple(map(tuple, along)), dim)
    return Member(name, "norm", tuple(map(tuple, rows)), None)


def _tie_carried(codec: VideoCodec, traced: Traced) -> None:
    """Let what leaves through the reference go with what re-enters from it."""
    atoms = traced.book.atoms
    for name, layer in codec.tied_channels():
        exit_, entry = (f"exit:reference_{name}", "in"), (f"entry:reference_{name}", "out")
        classes = atoms.classes()
        spans = [atoms.starts.get(key) for key in ((layer, "out"), exit_, entry)]
        made, left, entered = ([*range(s[0], sum(s))] if s else [] for s in spans)
        makes = {classes[atom] for atom in made}
        read = {classes[atom] for _, side, span in atoms.sides() if side != "out" for atom in span}
        if not (makes & {classes[a] for a in left}) or not (read & {classes[a] for a in entered}):
            raise UserError(
                f"{codec.name}.tied_channels(): {layer!r} and reference field {name!r} have to be "
                "the layer that makes this field, and a field that the decoder reads"
            )
        if len(left) != len(entered) or not {classes[a] for a in left} <= makes:
            raise UserError(
                f"{codec.name}.tied_channels(): {layer!r} makes only a part of {name!r}"
            )
        atoms.tie(torch.tensor(left), torch.tensor(entered))


# ---------------------------------------------------------------------- what stays, and why


def _why_fixed(codec: VideoCodec, traced: Traced, group: Group) -> str | None:
    tied = {f"reference_{name}" for name, _ in codec.tied_channels()}
    makers = [m.layer for m in group.producers()]
    inside = codec.decoder_modules()
    boundaries = [m.layer.partition(":") for m in group.members if is_boundary(m.layer)]
    for kind, _, name in boundaries:
        if kind == "entry" and name not in tied:
            what = "a constant" if name.startswith("constant") else f"the {name.replace('_', ' ')}"
            return f"tied to {what}, which comes from outside with all its channels"
    if traced.steering.intersection(makers):
        return "a motion vector: its two channels are x and y"
    if held := said_of(traced, group, traced.book.held):
        return held
    shown = traced.results.intersection(makers)
    if shown and not any(module_of(name, inside) for name in shown):
        return "tied to what the encoder makes and sends: a latent keeps its channels"
    if shown or not (group.consumers() or group.is_summed()):
        return "a result of the decoder: shown, or read by the entropy coder"
    for kind, _, name in boundaries:
        if kind == "exit" and name not in tied:
            kept = name.removeprefix("reference_")
            return f"leaves as the reference's {kept}, which tied_channels() does not name"
    if any(len({len(row) for row in m.channels}) > 1 for m in group.members):
        return "its channels are not alike: a slice or a sum takes only some of them"
    if group.size == 1:
        together = "its channels can only go all together"
        return together if group.width > 1 else "it has a single channel"
    if any(_is_parameter(codec, m.layer) and m.dim is None for m in group.members):
        return "tied to a parameter whose entries are not in line with the channels"
    return None


def said_of(traced: Traced, group: Group, said: Sequence[tuple[torch.Tensor, str]]) -> str | None:
    """The first of these remarks that is about a channel of the group."""
    atoms = traced.book.atoms
    classes = atoms.classes()
    mine = {
        classes[atoms.starts[m.layer, m.side][0] + i]
        for m in group.members if m.side == "out" for row in m.channels for i in row
    }  # fmt: skip
    for labels, words in said:
        if any(classes[atom] in mine for atom in labels.tolist()):
            return words
    return None


def _is_parameter(codec: VideoCodec, layer: str) -> bool:
    return not is_boundary(layer) and _shape_of_parameter(codec, layer) is not None


def explain_the_rest(codec: VideoCodec, channels: Channels) -> None:
    """Every other layer of the decoder with weights gets its reason too."""
    known = {m.layer for g in channels.groups for m in g.members if m.side != "in"}
    for name in known & channels.fixed.keys():
        channels.fixed[name] = in_part(channels.fixed[name])
    inside = codec.decoder_modules()
    for name in inside:
        module = codec.get_submodule(name)
        if not any(map(makes_channels, module.modules())):
            channels.fixed[name] = "no convolution: it has one entry for each channel of a symbol"
    for name, layer in codec.named_modules():
        has_weights = any(True for _ in layer.parameters(recurse=False))
        # What is inside a layer that is known as one goes with it.
        own = {f"{name}.{key}".lstrip(".") for key, _ in layer.named_parameters(recurse=False)}
        said = known | channels.fixed.keys()
        explained = own <= said or not said.isdisjoint(_with_parents(name))
        if has_weights and module_of(name, inside) and not explained:
            channels.fixed[name] = (
                "no P frame runs it: not reached by the channels that were followed"
                if makes_channels(layer)
                else "holds parameters that no channel goes with"
            )


IN_PART = "some of its channels stay: "


def in_part(reason: str) -> str:
    """The reason for a part of a layer's channels whose others can go."""
    return reason if reason.startswith(IN_PART) else IN_PART + reason


def made_by(codec: VideoCodec, group: Group) -> list[str]:
    """Layers of the decoder that make or rescale a group's channels."""
    inside = codec.decoder_modules()
    return [m.layer for m in group.members if m.side != "in" and module_of(m.layer, inside)]


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
