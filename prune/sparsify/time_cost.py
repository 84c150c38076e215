"""The milliseconds of a decoder as a function of how many channels each group keeps.

A layer's time is read from a table of measured ones, between which it is interpolated; a pass over
memory goes by the channels of the layers that it reads. Where hardware works in whole vectors the
time is a staircase, which MACs know nothing of.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lvc.pictures import round_up
from prune.groups.channels import Channels
from prune.measure.layer_kinds import decoder_work
from prune.measure.layer_times import LayerTimes
from prune.sparsify.cost import CostModel
from vcodecs import VideoCodec


class TimeCost(CostModel):
    """As `CostModel`, in milliseconds of a frame of `height` x `width`.

    `times`: measured, or measured now; they are saved to where they are kept.
    """

    def __init__(
        self, codec: VideoCodec, channels: Channels, height: int, width: int, times: LayerTimes
    ) -> None:
        super().__init__(codec, channels, height, width)
        self.times = times
        self.frame = round_up(height, codec.multiple), round_up(width, codec.multiple)
        """Height and width."""
        self.of = f"time on {times.machine.runtime}"
        work = decoder_work(codec, height, width)
        row = {name: i for i, name in enumerate(self.layers)}
        # Layers without MACs of their own keep their channels: the row behind the last one.
        rows = torch.tensor([row.get(item.layer, len(row)) for item in work])
        apart = torch.tensor([not item.kind.per_channel() for item in work])
        ins, outs = _with_fixed(self.inputs), _with_fixed(self.outputs)
        self.outputs = outs[rows]
        self.inputs = torch.where(apart[:, None], ins[rows], outs[rows])
        self.fixed_inputs = 1 - self.inputs @ self.sizes
        self.fixed_outputs = 1 - self.outputs @ self.sizes
        self.layers = tuple(item.layer for item in work)
        self.counts = torch.tensor([(w.inputs, w.outputs) for w in work], dtype=torch.float64)
        self.runs = torch.tensor([item.times for item in work], dtype=torch.float64)
        tables = [times.table(item.kind, item.inputs, item.outputs) for item in work]
        times.save()
        self.grid_ins = _padded([table[0] for table in tables])
        self.grid_outs = _padded([table[1] for table in tables])
        self.values = torch.zeros(
            len(work), self.grid_ins.shape[1], self.grid_outs.shape[1], dtype=torch.float64
        )
        for i, (_, _, values) in enumerate(tables):
            found = torch.tensor(values, dtype=torch.float64)
            self.values[i, : found.shape[0], : found.shape[1]] = found

    def price(self, ins: Tensor, outs: Tensor, rows: Tensor | None = None) -> Tensor:
        rows = torch.arange(len(self.layers)) if rows is None else rows
        i, a = _between(self.grid_ins[rows], ins * self.counts[rows, 0])
        j, b = _between(self.grid_outs[rows], outs * self.counts[rows, 1])
        more_i = (i + 1).clamp(max=self.values.shape[1] - 1)
        more_j = (j + 1).clamp(max=self.values.shape[2] - 1)
        here = self.values[rows, i, j] * (1 - b) + self.values[rows, i, more_j] * b
        there = self.values[rows, more_i, j] * (1 - b) + self.values[rows, more_i, more_j] * b
        return (here * (1 - a) + there * a) * self.runs[rows]


def _with_fixed(parts: Tensor) -> Tensor:
    return torch.cat((parts, parts.new_zeros(1, parts.shape[1])))


def _padded(grids: Sequence[Sequence[int]]) -> Tensor:
    """Rising counts as rows of one tensor, the shorter ones filled up without end."""
    padded = torch.full((len(grids), max(map(len, grids))), torch.inf, dtype=torch.float64)
    for i, counts in enumerate(grids):
        padded[i, : len(counts)] = torch.tensor(counts, dtype=torch.float64)
    return padded


def _between(grid: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The last grid point that `counts` (..., L) reach, and the part of the way to the next.

    `grid` (L, A). Below the first point time is that of the first: hardware cannot do with less.
    """
    index = ((grid <= counts.detach()[..., None] + 1e-9).sum(-1) - 1).clamp(min=0)
    spread = grid.expand(*index.shape, grid.shape[-1])
    low = spread.gather(-1, index[..., None])[..., 0]
    after = (index + 1).clamp(max=grid.shape[-1] - 1)
    high = spread.gather(-1, after[..., None])[..., 0]
    inside = (high > low) & high.isfinite()
    width = torch.where(inside, high - low, torch.ones_like(low))
    part = ((counts - low) / width).clamp(0, 1)
    return index, torch.where(inside, part, torch.zeros_like(part))
