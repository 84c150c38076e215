"""The way from a dense codec to a small one, for a recipe's steps and for Python alike.

What differs, data and trainer, comes in as `train`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prune.groups.channels import Channels
from prune.groups.shrink import check_same, masked_copy, shrunk_copy
from prune.onnx_export.bit_parity import LONGEST, check_decodes
from prune.pipeline.distillation import distillers
from prune.recipe.schema import DistillSection, PruneSection
from prune.sparsify.by_loss import LossSparsifier
from prune.sparsify.cost import CostModel
from prune.sparsify.sparsifier import Sparsifier
from prune.training.companion import Companion
from vcodecs import VideoCodec
from vcodecs.coding import TorchNetworks, can_code

Kept = dict[str, list[int]]
"""By channel group the channels that stay."""
Curves = list[dict[str, Any]]
Train = Callable[[VideoCodec, Sequence[Companion]], tuple[VideoCodec, Curves]]
"""Trains a codec, in place and where it is, with what trains along."""


def train_sparse(
    dense: VideoCodec,
    channels: Channels,
    cost: CostModel,
    settings: PruneSection,
    distill: DistillSection,
    steps: int,
    device: str,
    train: Train,
    larger: VideoCodec | None = None,
    losses: Sequence[Tensor] | None = None,
) -> tuple[VideoCodec, Kept, Curves]:
    """Masks, budget and distillation in `steps` of `train`; `dense` is left as it was.

    `larger`: a codec of other widths to learn from, in place of the dense one. `losses`: what
    the dense codec loses with each channel, for scores by loss; without them norms are the scores.

    Returns the codec with its masked channels at zero, what it keeps, and the curves.
    """
    student = copy.deepcopy(dense).to(device)
    sparsifier = sparsifier_of(student, channels, cost, settings, steps, losses)
    companions: list[Companion] = [sparsifier]
    companions += distillers(distill, student, dense, channels, None, larger)
    student, curves = train(student, companions)
    kept = sparsifier.choose()
    for companion in companions:
        companion.close()
    return masked_copy(student, channels, kept).cpu(), kept, curves


def sparsifier_of(
    codec: VideoCodec,
    channels: Channels,
    cost: CostModel,
    settings: PruneSection,
    steps: int,
    losses: Sequence[Tensor] | None = None,
) -> Sparsifier | LossSparsifier:
    """What masks `codec` while it trains for `steps`: by `losses` where there are any."""
    if losses is None:
        return Sparsifier(codec, channels, cost, settings, max(1, steps))
    return LossSparsifier(codec, channels, cost, settings, losses)


def train_shrunk(
    shrunk: VideoCodec,
    dense: VideoCodec,
    channels: Channels,
    kept: Kept,
    distill: DistillSection,
    device: str,
    train: Train,
    larger: VideoCodec | None = None,
) -> tuple[VideoCodec, Curves]:
    """Fine-tune a shrunk codec, with the dense one as its teacher; `dense` is left as it was.

    `larger` as for `train_sparse`.
    """
    student = shrunk.to(device)
    companions = distillers(distill, student, dense, channels, kept, larger)
    student, curves = train(student, companions)
    for companion in companions:
        companion.close()
    return student.cpu(), curves


def shrink_proved(
    masked: VideoCodec, channels: Channels, kept: Kept, clip: Tensor, seed: int
) -> tuple[VideoCodec, float]:
    """The codec without its masked channels, and how far it is from the masked one.

    Tried on random pictures and on `clip` (T, 3, H, W) in [0, 1]: pictures and bits have to be
    the same, and what the masked codec codes, the shrunk one has to decode. UserError otherwise.
    """
    shrunk = shrunk_copy(masked, kept, channels)
    random = torch.rand(LONGEST, 3, 64, 128, generator=torch.Generator().manual_seed(seed))
    worst = check_same(masked, shrunk, [random, clip])
    if can_code(masked):
        check_decodes(masked, TorchNetworks(shrunk), clip, "the shrunk codec")
    return shrunk, worst
