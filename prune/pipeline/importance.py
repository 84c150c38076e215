"""What each of a codec's channels is worth, by clips of its training data."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prune.data import TrainingClips, batches
from prune.groups.channels import Channels
from prune.recipe.schema import PruneSection
from prune.sparsify.importance import channel_losses, tells_all
from prune.training.settings import TrainerSettings, device_of
from vcodecs import Stage, VideoCodec


def losses_of(
    codec: VideoCodec,
    channels: Channels,
    section: PruneSection,
    sources: Sequence[tuple[Any, float]],
    batch: int,
    crop: int,
    settings: TrainerSettings,
) -> list[Tensor]:
    """`channel_losses` on `section.score_batches` batches of `sources`, (source, weight) pairs.

    The codec is moved to the settings' device.
    """
    device, stage = device_of(settings.device), telling_stage(codec)
    seed = zlib.crc32(f"{settings.seed} importance".encode())
    torch.manual_seed(seed)
    count = section.score_batches
    clips = TrainingClips(list(sources), stage.frames + 1, crop, seed, count * batch)
    stream = (drawn.to(device) for drawn in batches(clips, batch, workers=settings.workers))
    codec = codec.to(device, memory_format=torch.channels_last)
    return channel_losses(codec, channels, section, stage, stream, settings.tradeoff)


def telling_stage(codec: VideoCodec) -> Stage:
    """The codec's first stage whose loss is that of its pictures and of all its bits."""
    stages = codec.stages()
    return next((s for s in stages if tells_all(s)), stages[-1])
