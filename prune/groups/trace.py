"""A codec's P frames run once, with a label on every channel that layers make.

Labels go through whatever torch computes: what only moves entries is called again on the labels,
what computes entry by entry ties the channels that meet, a layer reads channels and makes new
ones. Sampling grids, offsets and the weights of an attention have no channels in common with what
they move or mix. What cannot be followed keeps all its channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prune.groups.follower import Follower
from prune.groups.operations import Book
from vcodecs import Reference, VideoCodec
from vcodecs.layers import SubpelConv

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, SubpelConv)


@dataclass
class Traced:
    """The findings of a run; layers by name, other places as `entry:`, `exit:` or `sum:`."""

    book: Book
    steering: set[str] = field(default_factory=set)
    """Their outputs steer a warp."""
    results: set[str] = field(default_factory=set)
    """Their outputs are the picture, or are read by the entropy coder."""


def trace(codec: VideoCodec, units: str = "heads") -> Traced:
    """Run a P frame behind an I frame, and P frames behind others: one of each turn.

    `units`: of attention over heads, whole "heads" go or "positions" of all. The codec is left as
    it was; no random numbers are drawn from torch's global generator.
    """
    training = codec.training
    wanted = {p: p.requires_grad for p in codec.parameters()}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        device = next(codec.parameters()).device
        frame = torch.rand(1, 3, codec.multiple, codec.multiple, device=device)
        try:
            references = _references(codec.eval(), frame)
            codec.requires_grad_(True)  # what leads to a result is read from autograd's graph
            return _followed(codec, frame, references, units)
        finally:
            codec.train(training)
            for parameter, state in wanted.items():
                parameter.requires_grad_(state)


def _followed(
    codec: VideoCodec, frame: Tensor, references: Sequence[Reference], units: str
) -> Traced:
    follower = Follower(codec, units)
    book = follower.book
    with follower, follower.hooks(codec):
        for reference in references:
            given = reference.tensors().items()
            entered = reference.with_tensors({key: follower.enter(key, x) for key, x in given})
            picture = follower.enter("", frame)
            coded = codec.code(picture, entered, codec.rates()[0], None)
            with follower.apart():
                follower.take(coded)
    behind = follower.layers_behind
    return Traced(book, behind(follower.grids), behind(follower.results))


@torch.no_grad()
def _references(codec: VideoCodec, frame: Tensor) -> list[Reference]:
    """References of an I frame and of as many P frames behind it as take turns."""
    found = [Reference(frame.flip(-1))]
    for _ in range(codec.turns):
        found.append(codec.code(frame, found[-1], codec.rates()[0], None).reference)
    return found
