"""Motion of pictures: smooth trajectories in closed form, and the warp that shows them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Motion:
    """Where a layer is at frame t. Closed forms, so that any frame can be rendered by itself."""

    velocity: np.ndarray  # (2,) x and y, pixels per frame
    sway: np.ndarray  # (4,) amplitudes of x, y (pixels), angle (radians), log zoom
    pace: np.ndarray  # (4,) radians per frame
    phase: np.ndarray  # (4,)
    spin: float  # radians per frame
    waves: np.ndarray  # (W, 6): amplitude x and y (pixels), wave vector x and y, pace, phase

    @staticmethod
    def draw(rng: np.random.Generator, velocity: np.ndarray, still: bool = False) -> "Motion":
        """A random motion around the camera's `velocity` (x, y in pixels per frame)."""
        own = velocity + rng.normal(size=2) * rng.exponential(0.6)
        pace = 2 * np.pi / rng.uniform(16, 80, 4)
        # Peak speeds rather than amplitudes are what a codec sees: amplitude = speed / pace.
        speed = rng.exponential([0.8, 0.8, 0.004, 0.006]) * (rng.random(4) < 0.6)
        sway = np.minimum(speed / pace, [60, 60, 0.4, 0.25])
        waves = np.zeros((2, 6))
        if rng.random() < 0.5:
            length = rng.uniform(50, 250, 2)
            direction = rng.uniform(0, 2 * np.pi, 2)
            amplitude = rng.normal(size=(2, 2)) * rng.exponential(1.0)
            waves[:, :2] = amplitude.clip(-4, 4)
            waves[:, 2] = np.cos(direction) * 2 * np.pi / length
            waves[:, 3] = np.sin(direction) * 2 * np.pi / length
            waves[:, 4] = rng.normal(size=2) * 0.2
            waves[:, 5] = rng.uniform(0, 2 * np.pi, 2)
        phase = rng.uniform(0, 2 * np.pi, 4)
        spin = rng.normal() * 0.006 * (rng.random() < 0.3)
        moving = 0.0 if still else 1.0
        return Motion(own * moving, sway * moving, pace, phase, spin * moving, waves * moving)

    def positions(
        self, height: int, width: int, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The canvas positions x, y that each frame shows, from the middle: (T, H, W) each."""
        t = times.astype(np.float64)[:, None]
        swing = self.sway * np.sin(self.pace * t + self.phase)  # (T, 4)
        shift = (self.velocity * t + swing[:, :2]).astype(np.float32)[:, :, None, None]
        angle = self.spin * t[:, 0] + swing[:, 2]
        zoom = np.exp(swing[:, 3])
        cos = (np.cos(angle) / zoom).astype(np.float32)[:, None, None]
        sin = (np.sin(angle) / zoom).astype(np.float32)[:, None, None]
        y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
        x = np.arange(width, dtype=np.float32)[None] - np.float32((width - 1) / 2)
        px = cos * x - sin * y - shift[:, 0]
        py = sin * x + cos * y - shift[:, 1]
        for ax, ay, kx, ky, pace, phase in self.waves.astype(np.float32):
            if ax or ay:
                time = (pace * t + phase).astype(np.float32)[:, :, None]
                wave = np.sin(kx * x + ky * y + time)
                px += ax * wave
                py += ay * wave
        return px, py


def draw_camera(rng: np.random.Generator) -> np.ndarray:
    """The camera's velocity x, y: mostly slow, up to 8 pixels per frame, at times fixed."""
    direction = rng.uniform(0, 2 * np.pi)
    speed = 8 * rng.random() ** 1.5 * (rng.random() > 0.15)
    return speed * np.array([np.cos(direction), np.sin(direction)])


def warp(
    canvas: np.ndarray, motion: Motion, height: int, width: int, times: np.ndarray
) -> torch.Tensor:
    """The canvas (C, rows, columns) as seen at each time: (T, C, height, width), float32."""
    px, py = motion.positions(height, width, times)
    rows, columns = canvas.shape[1:]
    grid = np.stack([px * (2 / columns), py * (2 / rows)], axis=-1)
    picture = torch.from_numpy(canvas)[None].expand(len(times), -1, -1, -1)
    # Reflection makes the canvas endless: a layer can move on for as long as it likes.
    return F.grid_sample(
        picture, torch.from_numpy(grid), "bicubic", "reflection", align_corners=False
    ).clamp_(0, 1)


def over(layer: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """A premultiplied RGBA layer (T, 4, H, W) over an opaque picture (T, 3, H, W)."""
    return layer[:, :3] + (1 - layer[:, 3:]) * back


def expose(
    picture: torch.Tensor, rng: np.random.Generator, noise_seed: tuple[int, ...], times: np.ndarray
) -> np.ndarray:
    """Film the picture (T, 3, H, W): brightness drift, sensor noise, and rounding to uint8."""
    frames = picture.numpy()
    if rng.random() < 0.25:
        drift = rng.uniform(0.02, 0.15) * np.sin(rng.uniform(0.02, 0.2) * times + rng.random() * 6)
        frames = frames * (1 + drift[:, None, None, None]).astype(np.float32)
    if rng.random() < 0.5:
        level = np.float32(rng.uniform(0, 3 / 255))
        for frame, time in zip(frames, times, strict=True):
            # Each frame's noise has a seed of its own, so that frames can be read by themselves.
            grain = np.random.default_rng((*noise_seed, int(time)))
            frame += level * grain.standard_normal(frame.shape, dtype=np.float32)
    return (frames * 255 + 0.5).clip(0, 255).astype(np.uint8)
