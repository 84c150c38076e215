"""Data sources as a recipe names them, and opening them."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lvc.errors import UserError
from prune.data.colour import SourceColour
from prune.data.images import IMAGE_SUFFIXES, VIMEO_LIST, Frames, ImagesInMotion, is_clip
from prune.data.packed import PackedClips, is_packed
from prune.data.procedural import Procedural
from prune.data.source import Source, files_in
from prune.data.videos import RAW_SUFFIXES, VIDEO_SUFFIXES, RawVideos, Videos

Kind = Literal["procedural", "images", "frames", "videos", "yuv", "vimeo", "packed"]


class SourceSpec(BaseModel):
    """One source of clips. A bare string stands for `kind: procedural` or for a path."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Kind | None = Field(None, description="found out from the path where absent")
    path: Path | None = Field(None, description="a file or a folder")
    weight: float = Field(1.0, gt=0, description="share of the samples, relative to the others")
    matrix: Literal["bt709", "bt601"] | None = Field(
        None, description="YUV to RGB matrix; that which a file states, or bt709, where absent"
    )
    range: Literal["limited", "full"] | None = Field(
        None, description="YUV range; that which a file states, or limited, where absent"
    )
    size: str | None = Field(None, pattern=r"^\d+x\d+$", description="WIDTHxHEIGHT of a raw .yuv")
    fps: float | None = Field(None, gt=0, description="frames per second of .yuv and images")
    pixel_format: Literal["yuv420p", "yuv420p10le", "yuv444p"] = "yuv420p"
    list: str | None = Field(None, description="Vimeo-90k: list file (sep_trainlist.txt)")
    seed: int = Field(0, ge=0, description="of synthetic clips and motion")
    clips: int | None = Field(None, ge=1, description="number of synthetic clips (endless)")
    height: int = Field(288, ge=16, description="of synthetic clips, pixels")
    width: int = Field(352, ge=16, description="of synthetic clips, pixels")
    frames: int = Field(33, ge=1, description="of synthetic clips")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            value = {"kind": "procedural"} if str(value) == "procedural" else {"path": value}
        if isinstance(value, dict) and value.get("kind") != "procedural" and not value.get("path"):
            raise ValueError("name a `path`, or `kind: procedural`, which needs none")
        return value

    def compared(self) -> dict[str, Any]:
        """The fields by which runs see whether their data has changed.

        Colours that are left to the files count as the defaults that stood there before, so that
        runs and trainings that were begun then go on.
        """
        usual = {"matrix": self.matrix or "bt709", "range": self.range or "limited"}
        return self.model_dump(mode="json") | usual

    @property
    def raw_size(self) -> tuple[int, int] | None:
        """`size` as (width, height) in pixels."""
        if self.size is None:
            return None
        width, height = self.size.split("x")
        return int(width), int(height)


def open_source(spec: SourceSpec | str | Path, base: Path | None = None) -> Source:
    """Open a source of clips.

    A relative path is looked for in the working directory, then in `base` (a recipe's folder).
    Files that cannot be opened are left out and listed in the source's `skipped`. Raises UserError
    if the path is missing, if its kind cannot be told, or if no clip is left.
    """
    if not isinstance(spec, SourceSpec):
        try:
            spec = SourceSpec.model_validate(spec)
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(f"data source {str(spec)!r}: {problem}") from error
    if spec.kind == "procedural" or spec.path is None:
        return _open_files(Path(), spec, "procedural")
    path = _find(spec.path, base)
    kind = spec.kind or _detect(path, spec)
    if kind in ("frames", "vimeo", "packed") and not path.is_dir():
        raise UserError(f"{path}: is a file, but `kind: {kind}` needs a folder")
    source = _open_files(path, spec, kind)
    if not len(source):
        raise UserError(f"{path}: {_nothing(kind, source.skipped)}")
    return source


def _open_files(path: Path, spec: SourceSpec, kind: Kind) -> Source:
    colour = SourceColour(spec.matrix, spec.range)
    fps = spec.fps or 30.0
    match kind:
        case "procedural":
            return Procedural(spec.seed, spec.clips, spec.height, spec.width, spec.frames, fps)
        case "videos":
            return Videos(str(path), _files(path, VIDEO_SUFFIXES), colour)
        case "yuv":
            files = _files(path, RAW_SUFFIXES)
            return RawVideos(str(path), files, spec.raw_size, spec.fps, spec.pixel_format, colour)
        case "frames":
            return Frames.find(path, fps)
        case "packed":
            return PackedClips(path)
        case "vimeo":
            return Frames.vimeo(path, spec.list or VIMEO_LIST, fps)
        case "images":
            files = _files(path, IMAGE_SUFFIXES)
            frame = spec.height, spec.width
            return ImagesInMotion(str(path), files, spec.seed, spec.clips, frame, spec.frames, fps)


def _files(path: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of a kind in a folder, or the file itself, whatever its suffix."""
    return [path] if path.is_file() else files_in(path, suffixes)


def _find(path: Path, base: Path | None) -> Path:
    with suppress(OSError, RuntimeError):  # a name too long, a home of nobody: not there either
        path = path.expanduser()
        for candidate in [path] if base is None else [path, base / path]:
            if candidate.exists():
                return candidate
    where = "" if path.is_absolute() or base is None else f" here, nor in {base}"
    raise UserError(f"{path}: no such file or folder{where}; correct the data source's `path`")


def _detect(path: Path, spec: SourceSpec) -> Kind:
    """The kind of source that a path is, by its layout and its files' suffixes."""
    if path.is_file():
        return _FILE_KINDS.get(path.suffix.lower(), "videos")
    if is_packed(path):
        return "packed"
    if (path / "sequences").is_dir() and (path / (spec.list or VIMEO_LIST)).is_file():
        return "vimeo"
    found = {kind: files_in(path, suffixes) for kind, suffixes in _SUFFIXES.items()}
    found = {kind: files for kind, files in found.items() if files}
    if not found:
        raise UserError(f"{path}: the folder holds no video, .yuv or image file")
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} for `{kind}`" for kind, files in found.items())
        raise UserError(f"{path}: the folder holds files of several kinds ({counts}): set `kind`")
    ((kind, files),) = found.items()
    return "frames" if kind == "images" and is_clip(files[0].parent) else kind


def _nothing(kind: Kind, skipped: dict[str, str]) -> str:
    """Why a source of this kind has no clip."""
    if not skipped:
        return f"nothing of `kind: {kind}` in it"
    file, reason = next(iter(skipped.items()))
    more = f" (and {len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
    return f"no clip can be used: {file} {reason}{more}"


_SUFFIXES: dict[Kind, frozenset[str]] = {
    "videos": VIDEO_SUFFIXES,
    "yuv": RAW_SUFFIXES,
    "images": IMAGE_SUFFIXES,
}
_FILE_KINDS = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
