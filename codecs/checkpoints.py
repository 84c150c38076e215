"""Weights in and out: our .safetensors with metadata, and the officially released files."""

import json
import pickle
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vcodecs.contract import VideoCodec
from vcodecs.errors import UserError
from vcodecs.files import replacing

BUNDLED = Path(__file__).parent / "weights"
FORMAT = "leanvc-1"


def save(
    codec: VideoCodec,
    path: str | Path,
    kept: dict[str, list[int]] | None = None,
    half: bool = False,
    notes: dict[str, str] | None = None,
) -> None:
    """Write the weights and what rebuilds the architecture to one .safetensors file.

    `kept`: by channel group the indices of the dense codec's channels that are left (shrunk
    codecs). `half` stores float16. `notes` are added to the metadata as they are.
    """
    state = {
        key: (value.half() if half else value).detach().cpu().contiguous()
        for key, value in codec.state_dict().items()
    }
    metadata = {"format": FORMAT, "codec": codec.name, "preset": codec.preset}
    metadata["kept"] = json.dumps(kept or {})
    with replacing(path) as temporary:
        safetensors.torch.save_file(state, temporary, metadata | (notes or {}))


def read_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of one of our .safetensors files; {} where it has none."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error})") from error


def find(checkpoint: str | Path) -> Path:
    """The file: a path, or the name of weights bundled with the package (`dcvc_small`)."""
    path = Path(checkpoint)
    bundled = BUNDLED / f"{checkpoint}.safetensors"
    if not path.exists() and bundled.exists():
        return bundled
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.safetensors")))
        raise UserError(f"checkpoint {checkpoint}: no such file (bundled weights: {known})")
    return path


def load_into(codec: VideoCodec, checkpoint: str | Path) -> None:
    """Load `checkpoint` strictly; layers of a shrunk checkpoint's widths are resized first."""
    path = find(checkpoint)
    if path.suffix == ".safetensors":
        _check_origin(codec, path)
        state = {key: value.float() for key, value in safetensors.torch.load_file(path).items()}
        resize(codec, state)
        codec.load_official(state)
    else:
        codec.load_official(read_official(path))


def read_official(path: str | Path) -> dict[str, Tensor]:
    """A .pth or .pth.tar: a plain state dict, or one under a `state_dict`-like key.

    Read with weights_only: such files come from strangers.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path}: cannot be read as weights: {first_line}") from error
    for key in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"checkpoint {path}: holds no state dict of tensors")
    return content


def resize(codec: nn.Module, state: dict[str, Tensor]) -> None:
    """Give every layer the widths of its tensors in `state` (values are not copied here).

    Only channel counts may differ: another rank or kernel size is left for strict loading to
    refuse.
    """
    for name, module in codec.named_modules():
        for key, old in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            new = state.get(f"{name}.{key}" if name else key)
            if new is None or new.shape == old.shape or new.dim() != old.dim():
                continue
            if old.shape[2:] != new.shape[2:]:
                continue
            empty = torch.empty(new.shape, dtype=old.dtype, device=old.device)
            if isinstance(old, nn.Parameter):
                setattr(module, key, nn.Parameter(empty, requires_grad=old.requires_grad))
            else:
                setattr(module, key, empty)
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = module.weight.shape[:2]
        elif isinstance(module, nn.ConvTranspose2d):
            module.in_channels, module.out_channels = module.weight.shape[:2]


def _check_origin(codec: VideoCodec, path: Path) -> None:
    metadata = read_metadata(path)
    for key, mine in (("codec", codec.name), ("preset", codec.preset)):
        theirs = metadata.get(key, mine)
        if theirs != mine:
            raise UserError(f"checkpoint {path}: made for {key} {theirs}, not {mine}")
