"""Objects that the steps of `prune.interface` hand to each other and to the user."""

from dataclasses import dataclass, field
from typing import Any

from prune.groups.channels import Channels
from prune.modules import ModuleCodec
from prune.pipeline.plan import Plan
from prune.pipeline.plan_tables import as_text
from prune.recipe.schema import PruneSection
from prune.sparsify.cost import CostModel
from vcodecs import VideoCodec


@dataclass(frozen=True)
class PruningPlan:
    """The plan of what a budget would remove; printed, it tells groups, MACs and reasons.

    `kept`: by group the channels that one-shot pruning would keep. `settings`: as in a recipe.
    """

    summary: Plan
    channels: Channels
    cost: CostModel
    kept: dict[str, list[int]]
    settings: PruneSection
    module: ModuleCodec | None = None
    """The module that was planned for, where that is no codec."""

    def __str__(self) -> str:
        return as_text(self.summary)


@dataclass(frozen=True)
class Sparse:
    """A codec whose masked channels are zero, and what is known of how it came about."""

    codec: VideoCodec
    dense: VideoCodec
    plan: PruningPlan
    kept: dict[str, list[int]]
    curves: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """Two codecs side by side. `latency` and `quality` are as in a report, where measured."""

    macs: tuple[int, int]
    parameters: tuple[int, int]
    size: tuple[int, int]
    latency: dict[str, Any] | None
    quality: dict[str, Any] | None

    def __str__(self) -> str:
        dense, sparse = self.macs
        lines = [
            f"MACs of the decoder, {self.size[1]}x{self.size[0]}: {dense / 1e9:.4g} G -> "
            f"{sparse / 1e9:.4g} G ({1 - sparse / dense:.1%} fewer)",
            f"parameters of the decoder: {self.parameters[0]:,} -> {self.parameters[1]:,}",
        ]
        if self.latency:
            ratio = self.latency["speedup"]
            lines.append(
                f"time on {self.latency['runtime']}: {self.latency['dense_ms']['median']:.1f} -> "
                f"{self.latency['sparse_ms']['median']:.1f} ms, {ratio['median']:.2f}x "
                f"(p10 {ratio['p10']:.2f}, p90 {ratio['p90']:.2f})"
            )
        for point in (self.quality or {}).get("points", ()):
            a, b = point["dense"], point["sparse"]
            at = "" if point["rate"] is None else f"rate {point['rate']:g}: "
            lines.append(
                f"{at}{a['psnr']:.2f} -> {b['psnr']:.2f} dB, {a['bpp']:.4f} -> {b['bpp']:.4f} bpp"
            )
        return "\n".join(lines)
