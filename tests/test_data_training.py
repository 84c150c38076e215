"""Training samples: a function of the seed and their number, whatever reads them."""

import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lvc.errors import UserError
from prune.data import Procedural, SourceSpec, TrainingClips, batches, open_source

FRAMES, HEIGHT, WIDTH = 9, 40, 56


@pytest.fixture(scope="module")
def ruler(tmp_path_factory):
    """A clip whose red tells the column, green the row, and blue the frame."""
    folder = tmp_path_factory.mktemp("ruler")
    return open_source(write_ruler(folder / "clip", FRAMES))


def write_ruler(folder: Path, frames: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:height, :width]
    for time in range(frames):
        frame = np.stack([columns, rows, np.full_like(rows, time)], -1).astype(np.uint8)
        Image.fromarray(frame).save(folder / f"{time}.png")
    return folder


def write_damaged(path: Path) -> Path:
    """A video that opens but does not decode."""
    noise = np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    for part in (0.3, 0.5, 0.7):
        data[int(part * len(data)) : int(part * len(data)) + 20] = bytes(20)
    path.write_bytes(data)
    return path


def levels(sample: torch.Tensor) -> np.ndarray:
    return np.rint(sample.numpy() * 255).astype(int)


@settings(max_examples=25, deadline=None)
@example(seed=186, number=747, frames=1, crop=8, augment=True)  # one frame, flipped in time
@given(
    seed=st.integers(0, 2**32),
    number=st.integers(0, 999),
    frames=st.integers(1, 5),
    crop=st.sampled_from([8, 16, 40]),
    augment=st.booleans(),
)
def test_samples_have_their_shape_and_range(ruler, seed, number, frames, crop, augment):
    sources = [(ruler, 2.0), (Procedural(), 1.0)]
    sample = TrainingClips(sources, frames, crop, seed, 1000, augment)[number]
    assert sample.shape == (frames, 3, crop, crop) and sample.dtype == torch.float32
    assert sample.min() >= 0 and sample.max() <= 1


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 9999))
def test_an_unaugmented_sample_is_an_exact_window_of_a_clip(ruler, number):
    red, green, blue = levels(
        TrainingClips([(ruler, 1.0)], 3, 16, 0, 10_000, augment=False)[number]
    ).transpose(1, 0, 2, 3)
    left, top, start = red.min(), green.min(), blue.min()
    assert 0 <= left <= WIDTH - 16 and 0 <= top <= HEIGHT - 16 and 0 <= start <= FRAMES - 3
    assert np.array_equal(red, np.broadcast_to(left + np.arange(16), red.shape))
    assert np.array_equal(green, np.broadcast_to(top + np.arange(16)[:, None], green.shape))
    assert np.array_equal(blue, np.broadcast_to(start + np.arange(3)[:, None, None], blue.shape))


def test_augmentation_flips_reverses_and_skips_frames(ruler):
    dataset = TrainingClips([(ruler, 1.0)], 3, 16, 0, 200)
    steps = set()
    for number in range(200):
        red, green, blue = levels(dataset[number]).transpose(1, 0, 2, 3)
        assert len(np.unique(np.diff(blue, axis=0))) == 1  # evenly spaced frames
        steps.add((red[0, 0, 1] - red[0, 0, 0], green[0, 1, 0] - green[0, 0, 0]))
        steps.add(blue[1, 0, 0] - blue[0, 0, 0])
    assert steps == {(1, 1), (1, -1), (-1, 1), (-1, -1), 1, -1, 2, -2}


def test_the_same_batches_come_from_any_number_of_workers_and_after_any_restart(ruler):
    def read(first, workers, seed=5):
        dataset = TrainingClips([(ruler, 1.0), (Procedural(), 1.0)], 2, 16, seed, 18)
        return list(batches(dataset, 3, first, workers))

    alone = read(0, 0)
    assert [batch.shape for batch in alone] == [(3, 2, 3, 16, 16)] * 6
    for other, expected in ((read(0, 2), alone), (read(4, 0), alone[4:]), (read(4, 2), alone[4:])):
        assert len(other) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(other, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(read(0, 0, seed=6), alone, strict=True))
    assert read(6, 0) == []


def test_sources_are_drawn_by_their_weights(ruler):
    dataset = TrainingClips([(ruler, 3.0), (Procedural(), 1.0)], 1, 8, 0, 400, augment=False)
    from_ruler = sum(
        bool(np.all(np.diff(levels(dataset[number])[0, 0], axis=1) == 1)) for number in range(400)
    )
    assert 270 <= from_ruler <= 330


def test_clips_too_short_or_too_small_are_never_drawn(tmp_path):
    write_ruler(tmp_path / "short", 2)
    write_ruler(tmp_path / "small", 5, height=12)
    write_ruler(tmp_path / "good", 5)
    source = open_source(tmp_path)
    assert [source.info(i).name for i in source.usable(3, 16)] == ["good"]
    dataset = TrainingClips([(source, 1.0)], 3, 16, 0, 40)
    assert all(dataset[number].shape == (3, 3, 16, 16) for number in range(40))
    assert not dataset.skipped
    assert dataset.left_out == {
        "short": "2 frames, 3 needed",
        "small": "56x12 pixels, 16x16 needed",
    }
    with pytest.raises(UserError, match="none of its 3 clips has 6 frames of 16x16 pixels"):
        TrainingClips([(source, 1.0)], 6, 16, 0, 40)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_clip_is_replaced_counted_and_warned_of_once(tmp_path, ruler, workers):
    damaged = open_source(write_damaged(tmp_path / "damaged.mkv"))
    dataset = TrainingClips([(ruler, 1.0), (damaged, 1.0)], FRAMES, 16, 0, 30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = list(batches(dataset, 3, 0, workers))
    assert len(read) == 10
    ours = [str(warning.message) for warning in caught if "left out" in str(warning.message)]
    assert len(ours) == 1 and "damaged.mkv" in ours[0]
    ((name, count),) = dataset.skipped.items()
    assert Path(name).name == "damaged.mkv" and count > 5
    again = TrainingClips([(ruler, 1.0), (damaged, 1.0)], FRAMES, 16, 0, 30)
    with pytest.warns(UserWarning, match="damaged"):
        samples = torch.stack([again[number] for number in range(30)])
    assert torch.equal(torch.cat(read), samples)
    assert again.skipped == dataset.skipped


@pytest.mark.parametrize("workers", [0, 1])
def test_data_of_which_nothing_decodes_is_an_error_in_one_line(tmp_path, workers):
    damaged = open_source(write_damaged(tmp_path / "damaged.mkv"))
    dataset = TrainingClips([(damaged, 1.0)], FRAMES, 16, 0, 4)
    with pytest.raises(UserError, match=r"clips in a row could not be read.*damaged\.mkv") as error:
        list(batches(dataset, 2, 0, workers))
    assert "\n" not in str(error.value)


def test_stills_give_samples_at_the_crop_asked_for(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(
        tmp_path / "photo.png"
    )
    Image.new("RGB", (20, 20)).save(tmp_path / "icon.png")
    source = open_source(SourceSpec(path=tmp_path, kind="images", height=16, width=16))
    dataset = TrainingClips([(source, 1.0)], 2, 48, 0, 6)
    assert [Path(name).name for name in dataset.left_out] == ["icon.png"]
    assert all(dataset[number].max() > 0.5 for number in range(6))  # the icon is too small
