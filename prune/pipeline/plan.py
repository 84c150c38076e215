"""What a budget would remove, without training.

The choice is by the magnitude of the dense weights alone; a run that trains finds its own. The
channel groups, what they cost and what has to stay are the same in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prune.groups.channels import Group
from prune.groups.shrink import shrunk_copy
from prune.measure.macs import decoder_macs
from prune.pipeline.job import Job


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
class Plan:
    """What one-shot pruning would do. `fixed`: why a layer's channels stay, by layer."""

    codec: str
    preset: str
    budget: float
    groups: list[PlannedGroup]
    macs: PlannedMacs
    fixed: dict[str, str]


def make_plan(job: Job) -> Plan:
    """Choose by magnitude, remove, and count. UserError when no choice meets the budget."""
    kept = job.one_shot()
    measure = job.recipe.measure
    dense = decoder_macs(job.teacher, measure.height, measure.width)
    sparse = decoder_macs(shrunk_copy(job.teacher, kept), measure.height, measure.width)
    return Plan(
        codec=job.teacher.name,
        preset=job.teacher.preset,
        budget=job.recipe.prune.budget,
        groups=[_planned(group, kept[group.name]) for group in job.channels.groups],
        macs=PlannedMacs(
            height=measure.height,
            width=measure.width,
            by_module={n: (macs, sparse.by_module[n]) for n, macs in dense.by_module.items()},
            dense=dense.total,
            sparse=sparse.total,
        ),
        fixed=dict(job.channels.fixed),
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
