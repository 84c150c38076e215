"""Plans: the channels that a budget would remove, without training.

The choice is by the magnitude of the dense weights alone; a run that trains finds its own. The
channel groups, what they cost and what has to stay are the same in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prune.groups.channels import Channels, Group
from prune.groups.shrink import shrunk_copy
from prune.measure.macs import decoder_macs
from prune.pipeline.job import Job
from prune.sparsify.budget import allowed_share
from prune.sparsify.cost import CostModel
from prune.sparsify.time_cost import TimeCost
from vcodecs import VideoCodec


@dataclass(frozen=True)
class PlannedGroup:
    """Channels that go together: the layers that make and that read them, and which would go.

    `removed`: indices into the group's `channels`, each of which is `width` of a tensor's.
    """

    name: str
    made_by: list[str]
    read_by: list[str]
    channels: int
    removed: list[int]
    width: int = 1


@dataclass(frozen=True)
class PlannedMacs:
    """MACs of one P frame of `height` x `width`: (dense, sparse) by decoder module, and in all."""

    height: int
    width: int
    by_module: dict[str, tuple[int, int]]
    dense: int
    sparse: int


@dataclass(frozen=True)
class PlannedTime:
    """Milliseconds of one P frame's networks, predicted from the times of single layers."""

    runtime: str
    precision: str
    threads: int
    height: int
    width: int
    dense_ms: float
    sparse_ms: float


@dataclass(frozen=True)
class Plan:
    """The outcome of one-shot pruning. `fixed`: why a layer's channels stay, by layer.

    `budget`: the part of the dense decoder's MACs, or where there is `time` of its time.
    """

    codec: str
    preset: str
    budget: float
    groups: list[PlannedGroup]
    macs: PlannedMacs
    fixed: dict[str, str]
    time: PlannedTime | None = None


def make_plan(job: Job) -> Plan:
    """Choose by magnitude, remove, and count. UserError when no choice meets the budget."""
    size = job.recipe.measure.height, job.recipe.measure.width
    kept = job.one_shot()
    share = allowed_share(job.recipe.prune.budget, job.cost)
    return planned(job.teacher, job.channels, kept, share, size, job.cost)


def planned(
    codec: VideoCodec,
    channels: Channels,
    kept: dict[str, list[int]],
    budget: float,
    size: tuple[int, int],
    cost: CostModel | None = None,
) -> Plan:
    """The rest of a codec that keeps these channels, at frames of `size` (height, width).

    `cost`: what the budget is counted in; a time is told too.
    """
    dense = decoder_macs(codec, *size)
    sparse = decoder_macs(shrunk_copy(codec, kept, channels), *size)
    return Plan(
        codec=codec.name,
        preset=codec.preset,
        budget=budget,
        groups=[_planned(group, kept[group.name]) for group in channels.groups],
        macs=PlannedMacs(
            height=size[0],
            width=size[1],
            by_module={n: (macs, sparse.by_module[n]) for n, macs in dense.by_module.items()},
            dense=dense.total,
            sparse=sparse.total,
        ),
        fixed=dict(channels.fixed),
        time=predicted(cost, channels, kept) if isinstance(cost, TimeCost) else None,
    )


def predicted(cost: TimeCost, channels: Channels, kept: dict[str, list[int]]) -> PlannedTime:
    """The time of a decoder that keeps these channels."""
    machine = cost.times.machine
    counts = torch.tensor([len(kept[group.name]) for group in channels.groups])
    return PlannedTime(
        machine.runtime,
        machine.precision,
        machine.threads,
        *cost.frame,
        dense_ms=float(cost.total(cost.sizes)),
        sparse_ms=float(cost.total(counts)),
    )


def _planned(group: Group, kept: Sequence[int]) -> PlannedGroup:
    return PlannedGroup(
        name=group.name,
        made_by=[m.layer for m in group.producers()],
        read_by=[m.layer for m in group.consumers()],
        channels=group.size,
        width=group.width,
        removed=sorted(set(range(group.size)) - set(kept)),
    )
