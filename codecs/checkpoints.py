"""Weights in and out: our .safetensors with metadata, and the officially released files."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torchvision.ops import DeformConv2d

from lvc.errors import UserError, printable
from lvc.files import replacing
from vcodecs.contract import Reference, VideoCodec
from vcodecs.layers import GroupedConv
from vcodecs.wrapped import unwrapped

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
    codecs). `half` stores float16, as far as that reaches. `notes` are added to the metadata as
    they are. Equal content gives equal bytes.
    """
    state = {
        key: (_halved(value) if half and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        for key, value in codec.state_dict().items()
    }
    state = _apart(state)
    metadata = {"format": FORMAT, "codec": codec.name, "preset": codec.preset}
    metadata["kept"] = json.dumps(kept or {})
    with replacing(path) as temporary:
        temporary.write_bytes(_serialized(state, metadata | (notes or {})))


def _halved(value: Tensor) -> Tensor:
    """In float16, unless a value is beyond 65504 and would become infinite."""
    narrow = value.half()
    return narrow if torch.equal(narrow.isfinite(), value.isfinite()) else value


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, one that is there under two names written twice, as the format asks."""
    seen: set[int] = set()
    for key, value in state.items():
        storage = value.untyped_storage().data_ptr()
        if storage in seen and value.numel():
            state[key] = value.clone()
        seen.add(storage)
    return state


def _serialized(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A .safetensors file, the same for the same content: the library's order of keys is random."""
    data = safetensors.torch.save(state, metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def read_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of one of our .safetensors files; {} where it has none."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error})") from error


def origin(checkpoint: str | Path) -> dict[str, str]:
    """Metadata of a checkpoint (`codec`, `preset`, ...); {} for a file that is not ours."""
    path = find(checkpoint)
    return read_metadata(path) if path.suffix == ".safetensors" else {}


def find(checkpoint: str | Path) -> Path:
    """The file: a path, or the name of weights bundled with the package (`dcvc_small`)."""
    path = Path(checkpoint)
    bundled = BUNDLED / f"{checkpoint}.safetensors"
    if path.is_file():
        return path
    if not bundled.is_file():
        known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.safetensors")))
        raise UserError(f"checkpoint {checkpoint}: no such file (bundled weights: {known})")
    return bundled


def load_into(codec: VideoCodec, checkpoint: str | Path, key: str | None = None) -> None:
    """Load `checkpoint` strictly; layers of a shrunk checkpoint's widths are resized first.

    What a training script has put around the weights is taken off (`vcodecs.wrapped`); `key`
    says which of several sets in one file is meant.
    """
    path = find(checkpoint)
    where = f"checkpoint {path}"
    if path.name.endswith(".index.json") or re.search(r"-\d+-of-\d+\.", path.name):
        raise UserError(f"{where}: one file of several: join their tensors into one file first")
    if path.suffix == ".safetensors":
        _check_origin(codec, path)
        state = _own(codec, path, safetensors.torch.load_file(path), where)
        state = unwrapped(codec, state, where, key)
        _check_kinds(codec, state, where)
        state = {name: value.float() for name, value in state.items()}
        resize(codec, state)
        codec.load_official(state, where)
        _check_widths(codec, path)
    else:
        state = unwrapped(codec, read_file(path), where, key)
        _check_kinds(codec, state, where)
        codec.load_official(state, where)


def _check_kinds(codec: VideoCodec, state: dict[str, Tensor], where: str) -> None:
    """UserError for what would be taken for weights, and is another kind of numbers."""
    mine = codec.state_dict()
    for name, value in state.items():
        kind = None
        if value.is_quantized or value.layout != torch.strided or value.is_meta:
            kind = "quantised, sparse or without values"
        elif name in mine and mine[name].is_floating_point() and not value.is_floating_point():
            kind = f"of {str(value.dtype).removeprefix('torch.')}, not of real numbers"
        if kind:
            raise UserError(f"{where}: {printable(name)} is {kind}: save plain float weights")


def read_file(path: str | Path) -> Any:
    """The content of a .pth or .pth.tar: tensors, numbers and text in containers.

    Read with weights_only: such files come from strangers.
    """
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # reading a damaged pickle can raise nearly everything
        raise UserError(
            f"checkpoint {path}: damaged, or not a file of tensors alone as torch.save writes it "
            "(anything else in it is refused, since loading that could run a stranger's code; of a "
            "file that you trust, save the state dict alone)"
        ) from error


def _harmless() -> list[Any]:
    """Things beside the weights, none of which runs code: options, and numbers of numpy's.

    Scores and losses are often such numbers. A pickle has the name that numpy's function for them
    had in the version that wrote it.
    """
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "f2", "i8", "i4", "u8", "u4", "?")]
    make: Any = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [Namespace, np.dtype, *kinds, *((make, name) for name in names)]


def read_official(path: str | Path) -> dict[str, Tensor]:
    """A state dict from such a file: the whole, or what is under a `state_dict`-like key."""
    content = read_file(path)
    for key in ("state_dict", "model", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"checkpoint {path}: holds no state dict (tensors by name)")
    return content


def resize(codec: nn.Module, state: dict[str, Tensor]) -> None:
    """Give every layer the widths of its tensors in `state` (values are not copied here).

    Only channel counts may differ: another rank, or another kernel size, is left for strict
    loading to refuse. Parameters that two layers have in common stay one.
    """
    made: dict[int, nn.Parameter] = {}
    for name, module in codec.named_modules():
        before = {key: value.shape for key, value in module.named_parameters(recurse=False)}
        for key, old in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            new = state.get(f"{name}.{key}" if name else key)
            if new is None or new.shape == old.shape or not _may_become(module, old, new):
                continue
            if isinstance(old, nn.Parameter):
                if id(old) not in made:
                    made[id(old)] = nn.Parameter(_empty(old, new), requires_grad=old.requires_grad)
                setattr(module, key, made[id(old)])
            else:
                setattr(module, key, _empty(old, new))
        _follow_widths(module, before)


def _may_become(module: nn.Module, old: Tensor, new: Tensor) -> bool:
    """Whether only counts of channels differ."""
    kernels = isinstance(module, _ConvNd | DeformConv2d)
    alike = not kernels or old.dim() < 3 or old.shape[2:] == new.shape[2:]
    return old.dim() == new.dim() > 0 and alike


def _empty(old: Tensor, new: Tensor) -> Tensor:
    return torch.empty(new.shape, dtype=old.dtype, device=old.device)


def _follow_widths(module: nn.Module, before: dict[str, torch.Size]) -> None:
    """Let what a layer says of its widths follow its weights, whose shapes were `before`."""
    if isinstance(module, _ConvNd | DeformConv2d):
        _follow_groups(module, before)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        held = module.weight if module.weight is not None else module.running_mean
        if held is not None:
            module.num_features = len(held)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        each = module.num_channels // module.num_groups
        module.num_channels = len(module.weight)
        module.num_groups = max(1, module.num_channels // each)
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def _follow_groups(layer: _ConvNd | DeformConv2d, before: dict[str, torch.Size]) -> None:
    """A grouped convolution has lost whole groups, in each of those left there are as many; a
    GroupedConv has lost as many channels in each."""
    transposed = isinstance(layer, _ConvTransposeNd)
    rows, columns = layer.weight.shape[:2]
    old = before.get("weight", layer.weight.shape)
    if layer.groups > 1 and rows != old[0] and not isinstance(layer, GroupedConv):
        layer.groups = max(1, rows * layer.groups // old[0])
    wide = columns * layer.groups
    layer.in_channels, layer.out_channels = (rows, wide) if transposed else (wide, rows)


@torch.no_grad()
def _check_widths(codec: VideoCodec, path: Path) -> None:
    """Layers that took their widths from a file one by one have to fit together: code a frame."""
    training = codec.training
    frame = next(codec.parameters()).new_zeros(1, 3, codec.multiple, codec.multiple)
    try:
        codec.eval()(frame, Reference(frame), codec.rates()[0])
    except Exception as error:  # a user's own code can raise anything of wrong widths
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"checkpoint {path}: its layers do not fit together: {first_line}"
        ) from error
    finally:
        codec.train(training)


def _check_origin(codec: VideoCodec, path: Path) -> None:
    metadata = read_metadata(path)
    for key, mine in (("codec", (codec.name,)), ("preset", (codec.preset, *codec.inside()))):
        theirs = metadata.get(key, mine[0])
        if theirs not in mine:
            raise UserError(f"checkpoint {path}: made for {key} {theirs}, not {mine[0]}")


def _own(codec: VideoCodec, path: Path, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The codec's own weights: those in the file, or a part of those of a preset it is inside."""
    preset = read_metadata(path).get("preset", codec.preset)
    if preset == codec.preset:
        return state
    whole = type(codec)(preset)
    whole.load_official({name: value.float() for name, value in state.items()}, where)
    return codec.out_of(whole).state_dict()
