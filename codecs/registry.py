"""Codecs by name: installed ones, those registered here and now, and classes in a file.

Packages add theirs by the entry-point group `leanvc.codecs`; a notebook by `register`; a recipe
names a class in a file, `mine.py:MyCodec`.
"""

import hashlib
import importlib.util
import inspect
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from lvc.errors import UserError
from vcodecs.checkpoints import find, load_into, origin
from vcodecs.contract import VideoCodec

GROUP = "leanvc.codecs"

Codec = TypeVar("Codec", bound=type[VideoCodec])
_registered: dict[str, type[VideoCodec]] = {}


def names() -> tuple[str, ...]:
    """The known codecs, sorted."""
    return tuple(sorted(_installed().keys() | _registered.keys()))


def _installed() -> dict[str, EntryPoint]:
    """Entry points by name; of two for one name the first."""
    return {point.name: point for point in reversed([*entry_points(group=GROUP)])}


def register(kind: Codec) -> Codec:
    """Make a class known under its `name`, in this process; returns it, so it can decorate.

    Registering a name again replaces the class, as running a notebook's cell again does.
    UserError for what is no VideoCodec, has no `name` or no `presets`, or for the name of an
    installed codec.
    """
    shown = getattr(kind, "__name__", repr(kind))
    if not (isinstance(kind, type) and issubclass(kind, VideoCodec)):
        raise UserError(f"{shown}: no codec can be made of it, it does not derive from VideoCodec")
    name, presets = getattr(kind, "name", None), getattr(kind, "presets", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"{shown}: give the class a `name`, such as name = {shown.lower()!r}")
    if not presets:
        raise UserError(f"{shown}: give the class `presets`, names of its sizes by what makes them")
    try:
        inspect.signature(kind).bind(next(iter(presets)))
    except TypeError as error:
        raise UserError(
            f"{shown}: its __init__ has to take the name of a preset, as {shown}(preset) does"
        ) from error
    if name in _installed():
        raise UserError(f"{shown}: {name!r} is an installed codec; give the class another `name`")
    _registered[name] = kind
    return kind


def codec_class(name: str, base: Path | None = None) -> type[VideoCodec]:
    """The class known as `name`, or the one that `FILE.py:CLASS` names.

    A relative FILE is looked for in the working directory, then in `base`. Its code is run.
    """
    if name in _registered:
        return _registered[name]
    file, _, kind = name.rpartition(":")
    if file.endswith(".py"):
        return register(_class_in(_file(file, base), kind))
    point = _installed().get(name)
    if point is None:
        raise UserError(
            f"no codec is called {name!r}; there are: {', '.join(names())} "
            "(or FILE.py:CLASS, for one of your own)"
        )
    return point.load()


def create(
    name: str,
    preset: str | None = None,
    checkpoint: str | Path | None = None,
    base: Path | None = None,
    key: str | None = None,
) -> VideoCodec:
    """Build codec `name` at `preset`, with the weights of `checkpoint` where one is given.

    `checkpoint`: a .safetensors file of ours (dense or shrunk: the layers take its widths), the
    name of bundled weights, or an official .pth / .pth.tar. Without one the weights are freshly
    drawn from torch's global generator. `base`: see `codec_class`. `key`: which set of weights
    of several in a checkpoint (`params_ema`). Errors: UserError for an unknown name or preset, or
    a checkpoint that is missing, damaged or made for another codec. Without
    a `preset` it is that of the checkpoint, else "official" or the codec's first.
    """
    kind = codec_class(name) if base is None else codec_class(name, base)
    if preset is None:
        preset = _preset_of(kind, checkpoint)
    if preset not in kind.presets:
        raise UserError(
            f"codec {name} has no preset {preset!r}; there are: {', '.join(kind.presets)}"
        )
    codec = kind(preset)
    if checkpoint is not None:
        load_into(codec, checkpoint, key)
    return codec


def preset_of(name: str, checkpoint: str | Path | None = None, base: Path | None = None) -> str:
    """The preset where none is named: the checkpoint's, else "official" or the codec's first."""
    return _preset_of(codec_class(name, base), checkpoint)


def _preset_of(kind: type[VideoCodec], checkpoint: str | Path | None) -> str:
    first = "official" if "official" in kind.presets else next(iter(kind.presets))
    return origin(checkpoint).get("preset", first) if checkpoint is not None else first


def codec_of(checkpoint: str | Path) -> VideoCodec:
    """The codec that a checkpoint of ours is of, with its weights; bundled ones by their name."""
    path = find(checkpoint)
    said = origin(path)
    if not {"codec", "preset"} <= set(said):
        raise UserError(f"{path}: does not say which codec it is for (no leanvc .safetensors)")
    return create(said["codec"], said["preset"], path)


# ---------------------------------------------------------------------- classes in files


def _file(name: str, base: Path | None) -> Path:
    places = [Path(name), *([base / name] if base else [])]
    for path in places:
        if path.is_file():
            return path.resolve()
    raise UserError(f"{name}: no such file (looked for {' and '.join(map(str, places))})")


def _class_in(path: Path, name: str) -> type[VideoCodec]:
    # One module a file, however often it is asked for: classes of two loads would differ.
    module_name = f"leanvc_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if module_name not in sys.modules:
        specification = importlib.util.spec_from_file_location(module_name, path)
        if specification is None or specification.loader is None:
            raise UserError(f"{path}: is no Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module
        try:
            specification.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(sys.modules[module_name], name, None)
    if found is None:
        raise UserError(f"{path}: there is no {name!r} in it")
    return found
