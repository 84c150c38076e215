"""Training samples: random crops of random clips, each a function of the seed and its number."""

import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lvc.errors import UserError
from prune.data.source import ClipError, Source, check_sources

ATTEMPTS = 50  # clips in a row that may be unreadable before the data is called broken
STRIDE_2 = 0.15  # share of the samples that take every second frame: faster motion


class TrainingClips(Dataset):
    """`length` samples drawn from sources in proportion to their weights.

    Sample i depends on (seed, i) and the clips alone, so any number of workers and any restart
    give the same samples. A clip that cannot be decoded is replaced by another draw.

    `skipped` counts, by clip, how often one had to be replaced; each is warned of once. `left_out`
    maps the clips that are too short or too small to be drawn to the reason.
    """

    def __init__(
        self, sources: list[tuple[Source, float]], frames: int, crop: int, seed: int, length: int,
        augment: bool = True,
    ) -> None:  # fmt: skip
        """`sources` are (source, weight > 0) pairs; samples have `frames` frames of `crop` pixels
        squared. `augment` adds flips, time reversal and frame skipping to the random crop.

        Raises UserError if a source has no clip long and large enough.
        """
        check_sources([source for source, _ in sources], frames, crop)
        self.sources = [source for source, _ in sources]
        weights = np.array([weight for _, weight in sources], np.float64)
        self.weights = weights / weights.sum()
        self.usable = [source.usable(frames, crop) for source in self.sources]
        self.left_out: dict[str, str] = {}
        for source in self.sources:
            self.left_out |= source.left_out(frames, crop)
        self.frames, self.crop, self.seed, self.length = frames, crop, seed, length
        self.augment = augment
        self.skipped: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> torch.Tensor:
        """Sample i: float32 (frames, 3, crop, crop), RGB in [0, 1]."""
        if not 0 <= i < self.length:
            raise IndexError(i)
        clip, failures = self.draw(i)
        self.report(failures)
        return as_pixels(clip)

    def draw(self, i: int) -> tuple[torch.Tensor, list[ClipError]]:
        """Sample i as uint8, and the errors of the clips that were tried for it in vain."""
        rng = np.random.default_rng((self.seed, i))
        failures: list[ClipError] = []
        for _ in range(ATTEMPTS):
            number = int(rng.choice(len(self.sources), p=self.weights))
            stride = 2 if self.augment and rng.random() < STRIDE_2 else 1
            try:
                clip = self.sources[number].sample(
                    rng, self.usable[number], self.frames, self.crop, stride
                )
            except ClipError as error:
                failures.append(error)
                continue
            if self.augment:
                flips = [axis for axis in (0, 2, 3) if rng.random() < 0.5]
                clip = np.flip(clip, flips)
            # A flipped axis of length 1 counts as contiguous, yet torch takes no negative stride.
            return torch.from_numpy(np.array(clip, order="C")), failures
        raise UserError(
            f"{ATTEMPTS} training clips in a row could not be read; the last: {failures[-1]}"
        )

    def report(self, failures: list[ClipError]) -> None:
        """Count clips that were left out, and warn of those not seen before."""
        for error in failures:
            if error.clip not in self.skipped:
                warnings.warn(f"left out of training: {error}", stacklevel=2)
            self.skipped[error.clip] += 1


class _Batches(Dataset):
    """Whole batches by number. Workers hand their failures over with the batch to be counted."""

    def __init__(self, clips: TrainingClips, batch_size: int, part: tuple[int, int]) -> None:
        self.clips, self.batch_size = clips, batch_size
        rank, count = part
        self.size = batch_size // count
        self.offset = rank * self.size

    def __getitem__(self, number: int) -> tuple[torch.Tensor, list[ClipError]] | UserError:
        first = number * self.batch_size + self.offset
        try:
            drawn = [self.clips.draw(i) for i in range(first, first + self.size)]
        except UserError as error:
            # Raised in a worker it would arrive as a stack trace in a string.
            return error
        return torch.stack([clip for clip, _ in drawn]), [e for _, errors in drawn for e in errors]


def batches(
    dataset: TrainingClips,
    batch_size: int,
    first: int = 0,
    workers: int = 0,
    as_bytes: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Iterator[torch.Tensor]:
    """Batches number `first`, `first + 1`, …: float32 (B, frames, 3, crop, crop) in [0, 1].

    `as_bytes`: uint8 instead, a quarter of the memory on the way to a device. `part`: (number,
    count) of the process whose B / count clips of each batch these are.

    Batch n holds the samples n·B to (n + 1)·B - 1, so resuming is starting at another `first`;
    the samples that do not fill a batch at the dataset's end are left out. `workers` processes
    prepare batches ahead; with 0 they are prepared in this one.
    """
    numbers = range(first, len(dataset) // batch_size)
    on_gpu = as_bytes and torch.cuda.is_available()
    loader = DataLoader(
        _Batches(dataset, batch_size, part),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        persistent_workers=False,
        pin_memory=on_gpu,
    )
    for prepared in loader:
        if isinstance(prepared, UserError):
            raise prepared
        batch, failures = prepared
        dataset.report(failures)
        yield batch if as_bytes else as_pixels(batch)


def as_pixels(clips: torch.Tensor) -> torch.Tensor:
    """uint8 pictures as float32 in [0, 1]."""
    return clips.float() / 255
