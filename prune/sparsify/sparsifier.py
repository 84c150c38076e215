"""Sparse training by norms: learnable thresholds, and a budget of MACs that drives them.

What `prune.scores: norm` asks for; `prune.sparsify.by_loss` has the other way.

A channel is on while its norm exceeds its group's threshold. Thresholds learn from the budget
and from the task through a soft gate sigmoid((norm - threshold) / temperature).
"""

from typing import Any

import torch
from torch import Tensor, nn

from prune.groups.channels import Channels
from prune.recipe.schema import PruneSection
from prune.sparsify.budget import allowed_share, target_at
from prune.sparsify.cost import CostModel
from prune.sparsify.gradient_decay import beta_at, factors
from prune.sparsify.masked import Gate, MaskedGroup, kept_by_module
from prune.sparsify.selection import allowed_counts, choose
from vcodecs import Stage, VideoCodec
from vcodecs.parts import module_of

PENALTY = 100.0
"""Quadratic weight of the augmented Lagrangian."""
ASCENT = 0.2
"""Step of its multiplier: small against the penalty, lest it winds up and overshoots."""
TRAVEL = 20.0
"""Reach of the thresholds in a whole run, in deviations: enough to close any group early."""
START = -3.0
"""First threshold, in deviations from the group's mean norm: below nearly every channel."""


class Sparsifier:
    """Trains along as a companion of the trainer: masks, thresholds, budget penalty."""

    def __init__(
        self,
        codec: VideoCodec,
        channels: Channels,
        cost: CostModel,
        settings: PruneSection,
        steps: int,
    ) -> None:
        """`steps`: length of the sparse training, by which the thresholds' pace is set."""
        self.rate = settings.threshold_rate or min(0.05, TRAVEL / steps)
        self.codec, self.channels, self.cost, self.settings = codec, channels, cost, settings
        self.budget = allowed_share(settings.budget, cost)
        self.groups = [MaskedGroup(codec, group) for group in channels.groups]
        device = self.groups[0].gate.value.device
        # Norms are measured from the group's mean in its deviation, as they are at the start:
        # thresholds then mean the same in all groups, also where the norms hardly differ.
        norms = [group.norms() for group in self.groups]
        self.centres = torch.stack([n.mean() for n in norms])
        self.spreads = torch.stack(
            [n.std(correction=0).clamp_min(1e-3 * float(n.mean()) + 1e-12) for n in norms]
        )
        self.thresholds = nn.Parameter(torch.full((len(self.groups),), START, device=device))
        self.multiplier = 0.0
        self.stage = ""
        self.beta = 1.0
        self.target = 1.0
        self.keep = 1.0
        self._penalty: Tensor | float = 0.0
        self._counts = torch.tensor([float(group.size) for group in channels.groups])
        self._floors = [
            allowed_counts(g, settings.align, settings.floor)[0] for g in channels.groups
        ]

    # ------------------------------------------------------------------ companion of the trainer

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.thresholds], "lr": self.rate}]

    def begin_step(self, stage: Stage, progress: float) -> None:
        """Set every gate for the coming forward passes, and the penalty of its MACs."""
        self.beta = beta_at(self.settings.beta, progress)
        self.target = self.target_at(progress)
        if stage.name != self.stage:
            # What the last stage's modules were pressed with says nothing about this one's.
            self.stage, self.multiplier = stage.name, 0.0
        trained = [m for m in stage.modules if m in self.codec.decoder_modules()]
        gates = []
        for i, masked in enumerate(self.groups):
            learns = module_of(masked.group.name, trained) is not None
            masked.gate = self._gate(i, learns)
            gates.append(masked.gate.value.sum())
        counts = torch.stack(gates).cpu()
        self._counts = counts.detach()
        self.keep = float(self.cost.fraction(self._counts))
        self._penalty, self._excess = 0.0, 0.0
        # A stage may only give away what its own modules cost; the encoder's cost nothing here.
        if self.cost.total(self.cost.sizes, trained) > 0:
            excess = self.cost.fraction(counts, trained) - max(self.target, self._least(trained))
            self._penalty = self.multiplier * excess + PENALTY / 2 * excess**2
            self._excess = float(excess.detach())

    def loss(self) -> Tensor | float:
        penalty = self._penalty
        return penalty.float().to(self.thresholds.device) if torch.is_tensor(penalty) else penalty

    def end_step(self) -> None:
        """Raise or lower the multiplier: an overshoot of the budget pulls back."""
        self.multiplier += ASCENT * self._excess

    def figures(self) -> dict[str, float]:
        return {"beta": self.beta, "keep": self.keep, "budget": self.target}

    def details(self) -> dict[str, float]:
        """The part of its prunable channels that each module keeps."""
        return kept_by_module(self.codec, self.channels.groups, self._counts.tolist())

    def state_dict(self) -> dict[str, Any]:
        return {
            "thresholds": self.thresholds.detach().cpu(),
            "centres": self.centres.cpu(),
            "spreads": self.spreads.cpu(),
            "multiplier": self.multiplier,
            "stage": self.stage,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.thresholds.copy_(state["thresholds"])
        self.centres = state["centres"].to(self.thresholds.device)
        self.spreads = state["spreads"].to(self.thresholds.device)
        self.multiplier, self.stage = state["multiplier"], state["stage"]

    # ------------------------------------------------------------------ masks

    def target_at(self, progress: float) -> float:
        """Fraction of the MACs allowed: from 1 to the budget over the first `ramp` of the steps."""
        return target_at(self.budget, self.settings.ramp, progress)

    def scores(self) -> list[Tensor]:
        """By group (C,): standardised norm minus threshold; a channel is on where positive."""
        return [self._score(i, self.thresholds[i].detach()) for i in range(len(self.groups))]

    def _score(self, i: int, threshold: Tensor) -> Tensor:
        return (self.groups[i].norms() - self.centres[i]) / self.spreads[i] - threshold

    def _gate(self, i: int, learns: bool) -> Gate:
        threshold = self.thresholds[i] if learns else self.thresholds[i].detach()
        score = self._score(i, threshold)
        soft = torch.sigmoid(score / self.settings.temperature)
        hard = (score > 0).to(soft.dtype)
        if hard.sum() < self._floors[i]:
            hard = torch.zeros_like(hard)
            hard[torch.topk(score.detach(), self._floors[i]).indices] = 1
        value = hard + soft - soft.detach()
        forward, backward = factors(self.settings.method, hard, self.beta)
        return Gate(value, forward, backward)

    def _least(self, modules: list[str]) -> float:
        return self.cost.least(modules, self._floors)

    # ------------------------------------------------------------------ the end

    def choose(self) -> dict[str, list[int]]:
        """The channels to keep, by group: budget met within 1 % of the dense cost, aligned."""
        s = self.settings
        return choose(self.channels.groups, self.scores(), self.cost, self.budget, s.align, s.floor)

    def close(self) -> None:
        """Take the masks off the codec; the dense weights stay."""
        for masked in self.groups:
            masked.unmask()
