"""What the loss says of each channel: the order in a group, and what a group's first so many lose.

Two measurements on training clips, neither of which trains anything.

*Order.* A gate g multiplies all weights that produce a channel. At g = 1 the gradient of a batch's
loss to it is s = sum of weight * gradient over these weights; channels of a group go in the order
of E[s^2], the empirical Fisher information of their gates (Theis et al., 2018; Molchanov et al.,
CVPR 2019).

*Losses.* What the loss rises by when a group keeps only its best n channels is measured, for a few
n a group: the channels of a group stand in for each other, so that removing most of them costs far
more than the sum of what each one costs alone, and how much more differs from layer to layer.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from prune.groups.channels import Channels
from prune.recipe.schema import PruneSection
from prune.sparsify.masked import Gate, MaskedGroup
from prune.sparsify.selection import allowed_counts
from prune.training.loss import rate_distortion
from prune.training.tradeoff import Tradeoff
from vcodecs import Stage, VideoCodec

LEVELS = 5
"""Counts that a group is measured at, all its channels included; between them it is
interpolated."""
ESSENTIAL = 1e6
"""Loss of the channels below the least count, which never go: more than any measured one."""


class OpenGates:
    """Gates on all groups of a codec that stands still otherwise; `close` takes them off again."""

    def __init__(self, codec: VideoCodec, channels: Channels) -> None:
        self.modes = [(module, module.training) for module in codec.modules()]
        self.learning = [(p, p.requires_grad) for p in codec.parameters()]
        codec.train().requires_grad_(False)
        for module in codec.modules():
            if isinstance(module, _NormBase):
                module.eval()  # running statistics stay what they are
        self.groups = [MaskedGroup(codec, group) for group in channels.groups]

    def keep(self, number: int, kept: Sequence[int] | None) -> None:
        """Let a group keep these channels alone; None opens all of them."""
        masked = self.groups[number]
        ones = torch.ones_like(masked.gate.forward)
        if kept is not None:
            ones.zero_()[list(kept)] = 1
        masked.gate = Gate(ones, ones, ones)

    def as_leaves(self) -> list[nn.Parameter]:
        """All gates open, as leaves that gradients arrive at: (C,) a group."""
        leaves = []
        for masked in self.groups:
            ones = torch.ones_like(masked.gate.forward)
            leaves.append(nn.Parameter(ones))
            masked.gate = Gate(leaves[-1], ones, ones)
        return leaves

    def close(self) -> None:
        for masked in self.groups:
            masked.unmask()
        for module, training in self.modes:
            module.training = training
        for parameter, learns in self.learning:
            parameter.requires_grad_(learns)


def channel_losses(
    codec: VideoCodec,
    channels: Channels,
    settings: PruneSection,
    stage: Stage,
    batches: Iterable[Tensor],
    tradeoff: Tradeoff,
) -> list[Tensor]:
    """By group (C,), float64: what the loss of `stage` loses with each channel, in order.

    The sum over the channels that go is what the group loses, where these are its least. Order by
    all of `batches` (N, T, 3, H, W), losses by the first two. The codec is left as it was.
    """
    kept: list[Tensor] = []
    gates = OpenGates(codec, channels)
    numbers = torch.get_rng_state()
    try:
        order = _information(codec, gates, _noted(batches, kept), stage, tradeoff)
        clips = torch.cat(kept)
        curves = _curves(codec, channels, gates, order, settings, stage, clips, tradeoff)
    finally:
        torch.set_rng_state(numbers)
        gates.close()
    return [
        _by_channel(information, curve) for information, curve in zip(order, curves, strict=True)
    ]


def _noted(batches: Iterable[Tensor], kept: list[Tensor]) -> Iterable[Tensor]:
    for batch in batches:
        if len(kept) < 2:
            kept.append(batch)
        yield batch


def _information(
    codec: VideoCodec,
    gates: OpenGates,
    batches: Iterable[Tensor],
    stage: Stage,
    tradeoff: Tradeoff,
) -> list[Tensor]:
    """By group (C,): sum of the squared gradients of gates."""
    leaves = gates.as_leaves()
    sums = [torch.zeros(leaf.numel(), dtype=torch.float64) for leaf in leaves]
    for number, clips in enumerate(batches):
        _loss(codec, clips, stage, tradeoff, number).backward()
        for total, leaf in zip(sums, leaves, strict=True):
            if leaf.grad is not None:
                total += leaf.grad.cpu().double().square()
            leaf.grad = None
    for number in range(len(leaves)):
        gates.keep(number, None)
    return sums


@torch.no_grad()
def _curves(
    codec: VideoCodec,
    channels: Channels,
    gates: OpenGates,
    order: Sequence[Tensor],
    settings: PruneSection,
    stage: Stage,
    clips: Tensor,
    tradeoff: Tradeoff,
) -> list[dict[int, float]]:
    """By group the rise of the loss by count, falling to 0 at all channels."""

    def loss() -> float:
        return float(_loss(codec, clips, stage, tradeoff, 0))

    dense, curves = loss(), []
    for number, group in enumerate(channels.groups):
        ranked = order[number].argsort(descending=True).tolist()
        curve = {group.size: 0.0}
        for count in reversed(_levels(allowed_counts(group, settings.align, settings.floor))[:-1]):
            gates.keep(number, ranked[:count])
            # Fewer channels are never better: what is below is noise.
            curve[count] = max(loss() - dense, *curve.values())
        gates.keep(number, None)
        curves.append(curve)
    return curves


def _levels(counts: Sequence[int]) -> list[int]:
    """At most `LEVELS` of these counts, the first and the last among them."""
    places = np.linspace(0, len(counts) - 1, min(LEVELS, len(counts))).round().astype(int)
    return [counts[place] for place in places]


def _by_channel(information: Tensor, curve: dict[int, float]) -> Tensor:
    """A group's curve shared out over its channels: (C,), those that go first have the least."""
    counts = sorted(curve)
    size = counts[-1]
    rises = np.interp(np.arange(size + 1), counts, [curve[count] for count in counts])
    # The step from n to n + 1 channels is what the channel of rank n is worth.
    steps = torch.from_numpy(rises[:-1] - rises[1:])
    steps[: counts[0]] = ESSENTIAL
    ties = torch.arange(size, 0, -1, dtype=torch.float64) * 1e-12
    losses = torch.empty(size, dtype=torch.float64)
    losses[information.argsort(descending=True)] = steps + ties
    return losses


def _loss(codec: VideoCodec, clips: Tensor, stage: Stage, tradeoff: Tradeoff, seed: int) -> Tensor:
    """The loss of `stage`; one seed means the same noise and the same rates."""
    torch.manual_seed(seed)
    rates, lagrangians = tradeoff.draw(len(clips), clips.device)
    return rate_distortion(codec, clips, stage, lagrangians, 0.0, rates).loss


def tells_all(stage: Stage) -> bool:
    """Whether the loss of a stage is that of the decoded picture and of all bits."""
    return stage.picture == "frame" and stage.streams is None
