"""Endless synthetic clips: dead-leaves pictures in layers that move over one another.

Dead leaves (opaque textured shapes of power-law sizes) have the edges, occlusions and spectra of
natural pictures. Each clip is a back layer and sparse front layers with their own slowly changing
translation, rotation, zoom and smooth deformation, so that motion has parallax and uncovers what
was hidden. Everything follows from (seed, index) and the frame's number.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from prune.data.motion import Motion, draw_camera, expose, over, warp
from prune.data.source import ClipInfo, Source

TILE = 512  # pixels of a side of the shared textures
TEXTURES = 12
ENDLESS = 1_000_000  # clips, where no number is asked for


def render(seed: int, index: int, height: int, width: int, frames: int) -> np.ndarray:
    """The first `frames` frames of clip `index`: uint8 (frames, 3, height, width), RGB."""
    return _render(seed, index, height, width, np.arange(frames))


class Procedural(Source):
    """`clips` clips of `frames` frames of `width` by `height` pixels that need no files."""

    def __init__(
        self, seed: int = 0, clips: int | None = None, height: int = 288, width: int = 352,
        frames: int = 33, fps: float = 30.0,
    ) -> None:  # fmt: skip
        self.name = "procedural"
        self.skipped: dict[str, str] = {}
        self.seed = seed
        self.clips = clips or ENDLESS
        self.height, self.width, self.frames, self.fps = height, width, frames, fps

    def __len__(self) -> int:
        return self.clips

    def info(self, index: int) -> ClipInfo:
        name = f"procedural-{self.seed}-{index}"
        return ClipInfo(name, self.frames, self.height, self.width, self.fps)

    def read(self, index: int, start: int = 0, count: int | None = None) -> np.ndarray:
        start, count = self.window(index, start, count)
        times = np.arange(start, start + count)
        return _render(self.seed, index, self.height, self.width, times)

    def usable(self, frames: int, crop: int) -> range:
        # Training clips are rendered at the size asked for, so every index will do.
        return range(self.clips)

    def left_out(self, frames: int, crop: int) -> dict[str, str]:
        return {}

    def sample(
        self, rng: np.random.Generator, usable: Sequence[int], frames: int, crop: int, stride: int
    ) -> np.ndarray:
        index = int(rng.integers(self.clips))
        return _render(self.seed, index, crop, crop, stride * np.arange(frames))


def _render(seed: int, index: int, height: int, width: int, times: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng((seed, index))
    camera = draw_camera(rng)
    blur = rng.random() < 0.25
    back = _canvas(rng, height, width, sparse=False)
    if blur:
        back = _smooth(_smooth(back))  # the background is out of focus
    motion = Motion.draw(rng, 0.7 * camera, still=not camera.any())
    picture = warp(back, motion, height, width, times)
    for nearness in np.sort(rng.uniform(0.8, 1.4, rng.integers(0, 3))):
        # What is nearer moves faster under a moving camera.
        motion = Motion.draw(rng, nearness * camera)
        front = _canvas(rng, height, width, sparse=True)
        picture = over(warp(front, motion, height, width, times), picture)
    return expose(picture, rng, (seed, index), times)


def _canvas(rng: np.random.Generator, height: int, width: int, sparse: bool) -> np.ndarray:
    """A layer larger than the frame, float32 in [0, 1]: RGB (3, rows, columns), or where it is
    `sparse` premultiplied RGBA (4, rows, columns)."""
    rows, columns = int(height * 1.3) + 40, int(width * 1.3) + 40
    side = min(height, width)
    if sparse:
        canvas = np.zeros((4, rows, columns), np.float32)
        count, power, smallest, largest = rng.integers(2, 7), 1.0, 8, side * 0.35
    else:
        canvas = np.concatenate([_surface(rng, rows, columns), np.ones((1, rows, columns))])
        canvas = canvas.astype(np.float32)
        count = int(rng.integers(40, 130) * rows * columns / 40_000)
        power, smallest, largest = rng.uniform(0.6, 1.8), 4, side * 0.5
    # Radii follow r^-(power + 1): at power 2 pictures look alike at every scale, below it large
    # surfaces take over.
    u = rng.random(count)
    radii = (smallest**-power + u * (largest**-power - smallest**-power)) ** (-1 / power)
    for radius in radii:
        _leaf(rng, canvas, float(radius))
    return canvas if sparse else canvas[:3]


def _leaf(rng: np.random.Generator, canvas: np.ndarray, radius: float) -> None:
    """Paint one textured shape of about `radius` pixels over the canvas."""
    rows, columns = canvas.shape[1:]
    cy, cx = rng.random() * rows, rng.random() * columns
    reach = radius * 1.45 + 2
    top, bottom = max(int(cy - reach), 0), min(int(cy + reach) + 1, rows)
    left, right = max(int(cx - reach), 0), min(int(cx + reach) + 1, columns)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(cy)
    x = np.arange(left, right, dtype=np.float32)[None] - np.float32(cx)
    alpha = draw_shape(rng, x, y, radius)
    patch = canvas[:, top:bottom, left:right]
    patch *= 1 - alpha
    patch[:3] += alpha * _surface(rng, bottom - top, right - left)
    patch[3] += alpha


def draw_shape(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: float
) -> np.ndarray:  # fmt: skip
    """Depth of pixels x (1, W), y (H, 1), from a random shape's middle, in it: (H, W), 0 to 1.

    The shape reaches at most 1.45 `radius` from its middle: a lobed blob, an ellipse, a diamond or
    nearly a rectangle, turned and flattened.
    """
    angle, flat = rng.uniform(0, np.pi), np.float32(rng.uniform(0.3, 1.0))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = np.abs(cos * x + sin * y)
    v = np.abs(cos * y - sin * x) / flat
    form = rng.random()
    if form < 0.4:
        lobes, depth, turn = rng.integers(2, 7), rng.uniform(0, 0.35), rng.uniform(0, 2 * np.pi)
        edge = radius * (1 + depth * np.cos(np.float32(lobes) * np.arctan2(v, u) + turn))
        inside = (edge - np.hypot(u, v)) * flat
    elif form < 0.7:
        inside = (radius - np.hypot(u, v)) * flat
    elif form < 0.85:
        inside = (radius - u - v) * flat * 0.7
    else:
        inside = (radius * 0.9 - np.maximum(u, v)) * flat
    # A ramp of 1.6 pixels holds no detail that sub-pixel shifts could not reproduce.
    return (inside / 1.6 + 0.5).clip(0, 1).astype(np.float32)


def _surface(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A textured, shaded surface of one material: float32 (3, rows, columns) in [0, 1]."""
    bank = _textures()
    texture = bank[rng.integers(len(bank))]
    top, left = rng.integers(TILE, size=2)
    texture = texture[_wrap(top, rows)][:, _wrap(left, columns)]
    if rng.random() < 0.5:
        texture = texture[::-1]
    luma = rng.beta(1.6, 2.0)
    base = np.clip(luma + rng.normal(size=3) * rng.exponential(0.06), 0.02, 0.98)
    contrast = min(rng.exponential(0.08), 0.3) * (0.4 + luma)
    tint = contrast * (1 + 0.25 * rng.normal(size=3))
    slope = rng.normal(size=2) * 0.12 * luma / max(rows, columns)
    shade = (
        np.arange(rows, dtype=np.float32)[:, None] * np.float32(slope[0])
        + np.arange(columns, dtype=np.float32) * np.float32(slope[1])
    )  # fmt: skip
    surface = tint.astype(np.float32)[:, None, None] * texture
    surface += base.astype(np.float32)[:, None, None] + shade
    return surface.clip(0, 1)


def _wrap(start: int, length: int) -> slice | np.ndarray:
    """`length` indices from `start` on, round and round the tile."""
    if start + length <= TILE:
        return slice(start, start + length)
    return np.arange(start, start + length) % TILE


@lru_cache(maxsize=1)
def _textures() -> np.ndarray:
    """Periodic textures of unit variance, float32 (TEXTURES, TILE, TILE): 1/f noise and stripes.

    Band-limited to 0.4 cycles per pixel, so that interpolation moves them without flicker.
    """
    rng = np.random.default_rng(20)
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    frequency = np.hypot(fy, fx)
    roll_off = np.clip((0.4 - frequency) / 0.12, 0, 1)
    frequency[0, 0] = 1
    bank = []
    for number in range(TEXTURES):
        slope = rng.uniform(0.7, 1.8)
        stretch = np.hypot(fy * rng.uniform(0.4, 2.5), fx * rng.uniform(0.4, 2.5))
        stretch[0, 0] = 1
        noise = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
        spectrum = noise * roll_off / np.maximum(stretch, 4 / TILE) ** slope
        texture = np.fft.irfft2(spectrum, s=(TILE, TILE))
        if number % 4 == 3:  # stripes, bent by the noise: fabric, grass, slats
            periods = rng.integers(8, 60, 2) * rng.choice([-1, 1], 2)
            y, x = np.mgrid[:TILE, :TILE] * (2 * np.pi / TILE)
            texture = np.sin(periods[0] * y + periods[1] * x + 2 * texture / texture.std())
            texture = np.fft.irfft2(np.fft.rfft2(texture) * roll_off, s=(TILE, TILE))
        bank.append((texture - texture.mean()) / texture.std())
    return np.stack(bank).astype(np.float32)


def _smooth(canvas: np.ndarray) -> np.ndarray:
    """The canvas after a binomial filter of 5x5 taps, mirrored at the border."""
    for axis in (1, 2):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (2, 2)
        wide = np.pad(canvas, pad, mode="reflect")
        size = canvas.shape[axis]
        taps = [np.take(wide, np.arange(k, k + size), axis=axis) for k in range(5)]
        canvas = (taps[0] + taps[4]) / 16 + (taps[1] + taps[3]) / 4 + taps[2] * 0.375
    return np.ascontiguousarray(canvas, dtype=np.float32)
