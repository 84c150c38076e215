"""Clips in images: folders of numbered frames, Vimeo-90k septuplets, stills set in motion."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from lvc.errors import UserError
from prune.data.cache import CACHE_BYTES, decoded
from prune.data.motion import Motion, draw_camera, expose, over, warp
from prune.data.procedural import draw_shape
from prune.data.source import ClipError, ClipInfo, Source, files_in

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"))
VIMEO_LIST = "sep_trainlist.txt"
SEPTUPLET = tuple(f"im{number}.png" for number in range(1, 8))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width as it is shown, by the file's header. Raises ClipError if there is none."""
    try:
        with Image.open(path) as image:
            sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            size = image.height, image.width
            return size[::-1] if sideways else size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(str(path), "is not a readable image") from error


def load_image(path: Path) -> np.ndarray:
    """An image as uint8 (H, W, 3) RGB; 16-bit greys are brought down to 8, alpha is dropped.

    It is turned as its Exif says.

    Raises ClipError if the file cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(str(path), f"cannot be decoded ({error})") from error


@dataclass(frozen=True)
class FrameFolder:
    """A clip that lies in a folder, an image per frame."""

    folder: Path
    files: tuple[str, ...]
    info: ClipInfo

    @staticmethod
    def index(folder: Path, name: str, fps: float) -> "FrameFolder":
        """The folder's images in the order of their numbers.

        Raises ClipError if their names hold no number or the numbering has a gap.
        """
        files = [file.name for file in _images(folder)]
        order = sorted((_number(folder / file), file) for file in files)
        steps = [after[0] - before[0] for before, after in pairwise(order)]
        if len(set(steps)) > 1 or 0 in steps:
            odd = steps.index(0) if 0 in steps else steps.index(max(steps))
            problem = "a number twice, that of" if 0 in steps else "a gap after"
            raise ClipError(str(folder), f"has {problem} {order[odd][1]} in its numbering")
        height, width = image_size(folder / order[0][1])
        info = ClipInfo(name, len(order), height, width, fps)
        return FrameFolder(folder, tuple(file for _, file in order), info)


class Frames(Source):
    """Folders of frames, one clip each."""

    def __init__(self, name: str, clips: list[FrameFolder], skipped: dict[str, str]) -> None:
        self.name, self.clips, self.skipped = name, clips, skipped

    @staticmethod
    def find(path: Path, fps: float) -> "Frames":
        """The clips in `path` itself and in the folders below it that hold images."""
        clips, skipped = [], {}
        for folder in sorted({file.parent for file in files_in(path, IMAGE_SUFFIXES)}):
            name = path.name if folder == path else folder.relative_to(path).as_posix()
            try:
                clips.append(FrameFolder.index(folder, name, fps))
            except ClipError as error:
                skipped[error.clip] = error.reason
        return Frames(str(path), clips, skipped)

    @staticmethod
    def vimeo(path: Path, list_file: str, fps: float) -> "Frames":
        """The septuplets of Vimeo-90k that a list names: `sequences/00001/0001/im1.png` to im7.

        All have the first one's size, so opening the source reads the header of one image only.
        """
        listing = path / list_file
        try:
            lines = listing.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{listing}: cannot be read: Vimeo-90k's folder holds its list files and "
                "`sequences/`; name another list with `list`"
            ) from error
        clips, skipped, size = [], {}, None
        for line in lines:
            folder = path / "sequences" / line
            try:
                if not (folder / SEPTUPLET[-1]).is_file():
                    raise ClipError(str(folder), f"has no {SEPTUPLET[-1]}")
                size = size or image_size(folder / SEPTUPLET[0])
                clips.append(FrameFolder(folder, SEPTUPLET, ClipInfo(line, 7, *size, fps)))
            except ClipError as error:
                skipped[error.clip] = error.reason
        return Frames(str(path), clips, skipped)

    def __len__(self) -> int:
        return len(self.clips)

    def info(self, index: int) -> ClipInfo:
        return self.clips[index].info

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        clip = self.clips[index]
        start, count = self.window(index, start, count)
        height, width = clip.info.height, clip.info.width
        array = np.empty((count, 3, height, width), np.uint8)
        for target, file in zip(array, clip.files[start : start + count], strict=True):
            image = load_image(clip.folder / file)
            if image.shape[:2] != (height, width):
                raise ClipError(
                    str(clip.folder / file),
                    f"is {image.shape[1]}x{image.shape[0]}, the clip {width}x{height}",
                )
            target[:] = image.transpose(2, 0, 1)
        return array


class ImagesInMotion(Source):
    """Still images, each filmed by a moving camera; at times a cut-out of another one passes.

    Clip i shows image i (modulo their number) under a motion drawn from (seed, i).
    """

    def __init__(
        self, name: str, files: list[Path], seed: int, clips: int | None, size: tuple[int, int],
        frames: int, fps: float,
    ) -> None:  # fmt: skip
        """Clips have `size` (height, width), or the image's own size where that is less.

        There are `clips` of them, one per image if None.
        """
        self.name, self.seed, self.size, self.frames, self.fps = name, seed, size, frames, fps
        self.skipped: dict[str, str] = {}
        self.images: list[tuple[Path, int, int]] = []
        for file in files:
            try:
                self.images.append((file, *image_size(file)))
            except ClipError as error:
                self.skipped[error.clip] = error.reason
        self.clips = clips if clips and self.images else len(self.images)
        self.keep = sum(3 * height * width for _, height, width in self.images) <= CACHE_BYTES

    def __len__(self) -> int:
        return self.clips

    def info(self, index: int) -> ClipInfo:
        path, height, width = self.images[index % len(self.images)]
        height, width = min(height, self.size[0]), min(width, self.size[1])
        return ClipInfo(f"{path.stem}-{index}", self.frames, height, width, self.fps)

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        start, count = self.window(index, start, count)
        info = self.info(index)
        times = np.arange(start, start + count)
        return self._film(
            (self.seed, index), index % len(self.images), info.height, info.width, times
        )

    def usable(self, frames: int, crop: int) -> list[int]:
        # Training clips are filmed at the size asked for: only the image limits them.
        return [i for i, (_, *size) in enumerate(self.images) if min(size) >= crop]

    def left_out(self, frames: int, crop: int) -> dict[str, str]:
        return {
            str(path): f"{width}x{height} pixels, {crop}x{crop} needed"
            for path, height, width in self.images
            if min(height, width) < crop
        }

    def sample(
        self, rng: np.random.Generator, usable: Sequence[int], frames: int, crop: int, stride: int
    ) -> np.ndarray:
        number = usable[rng.integers(len(usable))]
        seeds = (self.seed, int(rng.integers(2**32)))
        return self._film(seeds, number, crop, crop, stride * np.arange(frames))

    def _film(
        self, seeds: tuple[int, int], number: int, height: int, width: int, times: np.ndarray
    ) -> np.ndarray:
        rng = np.random.default_rng(seeds)
        camera = draw_camera(rng)
        back = _canvas(self._image(number), rng, height, width)
        motion = Motion.draw(rng, 0.7 * camera, still=not camera.any())
        picture = warp(back, motion, height, width, times)
        if rng.random() < 0.35:
            other = _canvas(self._image(int(rng.integers(len(self.images)))), rng, height, width)
            front = _cut_out(other, rng)
            motion = Motion.draw(rng, rng.uniform(0.8, 1.4) * camera)
            picture = over(warp(front, motion, height, width, times), picture)
        return expose(picture, rng, seeds, times)

    def _image(self, number: int) -> np.ndarray:
        path = self.images[number][0]
        if not self.keep:
            return load_image(path)
        return decoded.get(path, lambda: load_image(path), lambda image: image.nbytes)


def _canvas(image: np.ndarray, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random part of the image at a random scale, with room to move: float32 (3, H, W)."""
    rows, columns = image.shape[:2]
    # Large photos are soft pixel by pixel: show them reduced, down to where they fill the frame.
    least = min(1.0, 1.15 * max(height / rows, width / columns))
    scale = np.exp(rng.uniform(np.log(least), 0.0))
    high = min(rows, (1.3 * height + 40) / scale)
    wide = min(columns, (1.3 * width + 40) / scale)
    top, left = rng.random() * (rows - high), rng.random() * (columns - wide)
    part = Image.fromarray(image).resize(
        (round(wide * scale), round(high * scale)),
        Image.Resampling.LANCZOS,
        box=(left, top, left + wide, top + high),
    )
    return np.ascontiguousarray(np.asarray(part).transpose(2, 0, 1), dtype=np.float32) / 255


def _cut_out(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shape cut out of the canvas, transparent around it: premultiplied RGBA (4, H, W)."""
    rows, columns = canvas.shape[1:]
    y = np.arange(rows, dtype=np.float32)[:, None] - np.float32(rng.uniform(0.25, 0.75) * rows)
    x = np.arange(columns, dtype=np.float32)[None] - np.float32(rng.uniform(0.25, 0.75) * columns)
    alpha = draw_shape(rng, x, y, rng.uniform(0.1, 0.3) * min(rows, columns))[None]
    return np.concatenate([canvas * alpha, alpha])


def is_clip(folder: Path) -> bool:
    """Whether a folder's images look like one clip: numbered without gaps, all of one size."""
    try:
        clip = FrameFolder.index(folder, folder.name, fps=1)
        sizes = {image_size(folder / file) for file in clip.files}
    except ClipError:
        return False
    return len(sizes) == 1 and len(clip.files) > 1


def _images(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]


def _number(image: Path) -> int:
    """The last number in an image's name: im7.png is 7, shot2_00010.png is 10."""
    numbers = re.findall(r"\d+", image.stem)
    if not numbers:
        raise ClipError(str(image.parent), f"holds an image without a number, {image.name}")
    return int(numbers[-1])
