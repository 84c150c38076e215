"""Sparse training by loss: the channels that the loss loses least with, for what they cost, go.

The budget falls to its end in stairs, and each leaves the channels that `choose_by_loss` finds for
it by losses that were measured before. What a masked channel's weights are and learn meanwhile is
the method's (see `gradient_decay`): a channel that one stair takes and the next one gives back has
gone on learning.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prune.groups.channels import Channels
from prune.recipe.schema import PruneSection
from prune.sparsify.budget import allowed_share, target_at
from prune.sparsify.cost import CostModel
from prune.sparsify.gradient_decay import beta_at, factors
from prune.sparsify.masked import Gate, MaskedGroup, kept_by_module
from prune.sparsify.selection import choose_by_loss
from vcodecs import Stage, VideoCodec

STAIRS = 50
"""Choices while the budget falls: one takes longer than a step of small codecs."""


class LossSparsifier:
    """Trains along as a companion of the trainer: masks by measured losses, within the budget."""

    def __init__(
        self,
        codec: VideoCodec,
        channels: Channels,
        cost: CostModel,
        settings: PruneSection,
        losses: Sequence[Tensor],
    ) -> None:
        """`losses`: of `prune.sparsify.importance.channel_losses`."""
        self.codec, self.channels, self.cost, self.settings = codec, channels, cost, settings
        self.losses = list(losses)
        self.budget = allowed_share(settings.budget, cost)
        self.groups = [MaskedGroup(codec, group) for group in channels.groups]
        self.masks = [masked.gate.value.detach().clone() for masked in self.groups]
        self.beta, self.target, self.keep = 1.0, 1.0, 1.0

    # ------------------------------------------------------------------ companion of the trainer

    def parameter_groups(self) -> list[dict[str, Any]]:
        """None: nothing here learns."""
        return []

    def begin_step(self, stage: Stage, progress: float) -> None:
        """Set every gate for the coming forward passes."""
        self.beta = beta_at(self.settings.beta, progress)
        stair = int(progress / self.settings.ramp * STAIRS + 1) / STAIRS
        target = target_at(self.budget, 1.0, stair)
        if target < self.target:
            self._mask(target)
        for masked, mask in zip(self.groups, self.masks, strict=True):
            masked.gate = Gate(mask, *factors(self.settings.method, mask, self.beta))

    def loss(self) -> Tensor | float:
        """None: the budget is kept by choice."""
        return 0.0

    def end_step(self) -> None:
        """Nothing: losses stay as they were measured."""

    def figures(self) -> dict[str, float]:
        return {"beta": self.beta, "keep": self.keep, "budget": self.target}

    def details(self) -> dict[str, float]:
        """The part of its prunable channels that each module keeps."""
        return kept_by_module(self.codec, self.channels.groups, self._counts().tolist())

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "target": self.target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])
        if state["target"] < 1:
            self._mask(state["target"])

    # ------------------------------------------------------------------ masks

    def _mask(self, target: float) -> None:
        self.target = target
        last = target <= self.budget  # on the way there near is near enough
        kept = choose_by_loss(
            self.channels.groups, self.losses, self.cost, target, self.settings, exact=last
        )
        for group, mask in zip(self.channels.groups, self.masks, strict=True):
            mask.zero_()[kept[group.name]] = 1
        self.keep = float(self.cost.fraction(self._counts()))

    def _counts(self) -> Tensor:
        return torch.stack([mask.sum() for mask in self.masks]).cpu()

    # ------------------------------------------------------------------ the end

    def choose(self) -> dict[str, list[int]]:
        """The channels to keep, by group: budget met within 1 % of the dense cost, aligned."""
        if self.target > self.budget:  # the steps have ended before the ramp
            self._mask(self.budget)
        return {
            group.name: mask.nonzero().flatten().tolist()
            for group, mask in zip(self.channels.groups, self.masks, strict=True)
        }

    def close(self) -> None:
        """Take the masks off the codec; the dense weights stay."""
        for masked in self.groups:
            masked.unmask()
