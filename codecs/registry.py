"""Codecs by name; other packages add theirs by the entry-point group `leanvc.codecs`."""

from importlib.metadata import entry_points
from pathlib import Path

from lvc.errors import UserError
from vcodecs.contract import VideoCodec

GROUP = "leanvc.codecs"


def names() -> tuple[str, ...]:
    """The registered codecs, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def codec_class(name: str) -> type[VideoCodec]:
    """The class registered under `name`."""
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        raise UserError(f"no codec is called {name!r}; there are: {', '.join(names())}")
    return points[0].load()


def create(name: str, preset: str = "official", checkpoint: str | Path | None = None) -> VideoCodec:
    """Build codec `name` at `preset`, with the weights of `checkpoint` where one is given.

    `checkpoint`: a .safetensors file of ours (dense or shrunk: the layers take its widths), the
    name of bundled weights, or an official .pth / .pth.tar. Without one the weights are freshly
    drawn from torch's global generator. Errors: UserError for an unknown name or preset, or a
    checkpoint that is missing, damaged or made for another codec.
    """
    from vcodecs.checkpoints import load_into

    kind = codec_class(name)
    if preset not in kind.presets:
        raise UserError(
            f"codec {name} has no preset {preset!r}; there are: {', '.join(kind.presets)}"
        )
    codec = kind(preset)
    if checkpoint is not None:
        load_into(codec, checkpoint)
    return codec
