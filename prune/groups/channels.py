"""Channels of a decoder that can only be removed together, and what has to stay.

A group's channel c stands for one set of output channels of its producers and input channels of
its consumers.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Member:
    """One side of one layer in a group. `channels[c]` are its indices that go with channel c.

    `side`: "out" of a layer that makes the channels, "in" of one that reads them, "norm" of what
    treats each channel by itself (a normalisation, a scale). Of a parameter that is in no layer
    `layer` is its name, and `dim` the dimension of its channels.
    """

    layer: str
    side: str
    channels: tuple[tuple[int, ...], ...]
    dim: int | None = None


@dataclass(frozen=True)
class Group:
    """`size` channels that each go as a whole; named after the first layer that produces them.

    One of them may be several channels of a tensor that can only go together.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def width(self) -> int:
        """The number of channels of a tensor that one channel of the group stands for."""
        return min(len(member.channels[0]) for member in self.members if member.side == "out")

    def producers(self) -> tuple[Member, ...]:
        """Layers that make the channels, normalisations left out."""
        return tuple(m for m in self.members if m.side == "out" and not is_boundary(m.layer))

    def consumers(self) -> tuple[Member, ...]:
        """Layers that read the channels."""
        return tuple(m for m in self.members if m.side == "in" and not is_boundary(m.layer))

    def is_summed(self) -> bool:
        """Whether something sums over the channels, so that they are read by no layer's weights."""
        return any(m.layer.startswith("sum:") for m in self.members)


@dataclass
class Channels:
    """All that can be removed from a codec's decoder, and what cannot and why."""

    groups: tuple[Group, ...]
    fixed: dict[str, str] = field(default_factory=dict)
    """Layer name -> why its output channels stay."""


def is_boundary(layer: str) -> bool:
    """Whether this is no layer but a place where channels enter or leave the decoder."""
    return ":" in layer
