"""I frames by a real image or video codec, or by a learned picture codec."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import overload

import numpy as np
import torch
from torch import Tensor

import vcodecs
from lvc.errors import UserError
from lvc.intra import PICTURE_CODERS, PictureCoder, create_from, create_pictures
from lvc.pictures import as_float, as_picture
from vcodecs.coding import TorchNetworks, can_code, compress
from vcodecs.contract import CodedFrame, Reference, pad


class IntraCodec(ABC):
    """Codes one picture by itself. `name` says in a report what was used.

    `rated`: whether the rate that is asked for makes a difference.
    """

    name: str
    rated = False

    @abstractmethod
    def encode(self, frame: Tensor, rate: float | None = None) -> tuple[Tensor, float]:
        """Code one picture (1, 3, H, W), RGB in [0, 1]: (what a receiver sees, bits taken)."""

    def pictures(self, frames: Tensor, rates: Tensor | None = None) -> Tensor:
        """The pictures that a receiver sees of (N, 3, H, W); `rates` (N,) where there are many."""
        each = [None] * len(frames) if rates is None else rates.tolist()
        shown = [self.encode(x[None], r)[0] for x, r in zip(frames, each, strict=True)]
        return torch.cat(shown)


class ByteIntra(IntraCodec):
    """An intra codec with real bytes, at one quality."""

    @abstractmethod
    def compress(self, frame: Tensor) -> bytes:
        """Encode one picture (1, 3, H, W), RGB in [0, 1]."""

    @abstractmethod
    def decompress(self, data: bytes, height: int, width: int) -> Tensor:
        """Decode `compress`'s bytes to (1, 3, height, width), RGB in [0, 1], on the CPU.

        Raises UserError where the bytes cannot be decoded. They carry no checksum: whoever stores
        them guards against damage that still decodes.
        """

    def encode(self, frame: Tensor, rate: float | None = None) -> tuple[Tensor, float]:
        """As `IntraCodec.encode`, out of the bytes that are counted; `rate` is of no effect."""
        data = self.compress(frame)
        height, width = frame.shape[-2:]
        return self.decompress(data, height, width).to(frame.device), 8 * len(data)


class PictureIntra(ByteIntra):
    """An intra codec out of a coder of 8-bit pictures."""

    def __init__(self, coder: PictureCoder) -> None:
        self._coder = coder
        self.name = coder.name

    def compress(self, frame: Tensor) -> bytes:
        return self._coder.compress(_to_uint8(frame))

    def decompress(self, data: bytes, height: int, width: int) -> Tensor:
        return _to_tensor(self._coder.decompress(data, height, width))


class NetworkIntra(IntraCodec):
    """A learned picture codec: a `VideoCodec` that reads nothing of its reference.

    `checkpoint` and `key`: as for `vcodecs.create`; a file of ours says itself which `codec` and
    `preset` it is for. Pictures are coded at the rate of the P frames, or always at `rate`. Bits
    are real, or estimates where the codec has no others.
    """

    def __init__(
        self,
        checkpoint: str = "",
        codec: str = "",
        preset: str = "",
        rate: str | float = "",
        key: str = "",
    ) -> None:
        from vcodecs import checkpoints

        if not checkpoint:
            raise UserError("checkpoint=... is needed: a file, or the name of bundled weights")
        said = checkpoints.origin(checkpoint)
        name, preset = codec or said.get("codec"), preset or said.get("preset", "official")
        if name is None:
            raise UserError(f"{checkpoint} does not say which codec it is for: give codec=...")
        network = vcodecs.create(name, preset, checkpoint, key=key or None)
        self.network = network.eval().requires_grad_(False)
        self.rated = len(self.network.rates()) > 1
        self.rate = _as_number(rate)
        if self.rated and self.rate is not None:
            low, high = self.network.rates()[0], self.network.rates()[-1]
            if not low <= self.rate <= high:
                raise UserError(
                    f"rate {self.rate:g} is out of range: give one of {low:g} to {high:g}"
                )
        self._check_independence()
        self._networks = TorchNetworks(self.network) if can_code(self.network) else None
        self.name = f"{name} {preset} ({checkpoint})"
        if self._networks is None:
            self.name += ", estimated bits"
        if self.rate is not None:
            self.name += f", rate {self.rate:g}"

    def encode(self, frame: Tensor, rate: float | None = None) -> tuple[Tensor, float]:
        if self._networks is None:
            estimated = self._code(frame, rate)
            return estimated.frame, float(estimated.total_bits())
        height, width = frame.shape[-2:]
        self.network.to(frame.device)
        coded = compress(self._networks, pad(frame), {}, self._rate_of(rate))
        shown = torch.from_numpy(coded.following["reference"][..., :height, :width])
        return shown.to(frame.device), 8.0 * len(coded.payload)

    def pictures(self, frames: Tensor, rates: Tensor | None = None) -> Tensor:
        return self._code(frames, rates).frame.float()

    @torch.no_grad()
    def _code(self, frames: Tensor, rate: float | Tensor | None) -> CodedFrame:
        network = self.network.to(frames.device)
        return network(frames, Reference(frames), self._rate_of(rate))

    @overload
    def _rate_of(self, rate: float | None) -> float | None: ...

    @overload
    def _rate_of(self, rate: float | Tensor | None) -> float | Tensor | None: ...

    def _rate_of(self, rate: float | Tensor | None) -> float | Tensor | None:
        """The rate that the network takes: its own fixed rate, the P frames', or none at all."""
        rate = rate if self.rate is None else self.rate
        if self.rated and rate is None:
            raise UserError(f"{self.name} serves many rates: give rate=...")
        return rate if self.rated else None

    def _check_independence(self) -> None:
        """A P-frame codec would show a wonderful I frame, which it had been given."""
        frame = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        rate = self.network.rates()[0]
        with torch.no_grad():
            first = self.network(frame, Reference(frame), rate).frame
            second = self.network(frame, Reference(1 - frame), rate).frame
        if not torch.equal(first, second):
            raise UserError(f"codec {self.network.name} codes P frames: it reads its reference")


def _as_number(text: str | float) -> float | None:
    try:
        return None if text == "" else float(text)
    except ValueError:
        raise UserError(f"rate {text!r} is not a number") from None


_REGISTRY: dict[str, Callable[..., IntraCodec]] = {"network": NetworkIntra}
"""Beside the picture coders of `lvc.intra`, which need no torch."""


def register_intra(name: str, factory: Callable[..., IntraCodec]) -> None:
    """Add an intra codec: `factory` takes its options as keywords (whole numbers as int)."""
    if name in intra_names():
        raise ValueError(f"intra codec {name!r} is registered already")
    _REGISTRY[name] = factory


def intra_names() -> tuple[str, ...]:
    """Registered names, for `create_intra`."""
    return (*PICTURE_CODERS, *_REGISTRY)


def create_intra(spec: str) -> IntraCodec:
    """Make an intra codec from "NAME" or "NAME:key=value,key=value".

    Examples: "hevc:qp=22", "h264:qp=20,matrix=bt601,range=full", "lossless",
    "network:checkpoint=dcvc_hem_intra_small". An unknown name, key or value is a UserError that
    lists the known ones.
    """
    if spec.partition(":")[0] in PICTURE_CODERS:
        return PictureIntra(create_pictures(spec))
    return create_from(_REGISTRY, spec, names=intra_names())


def _to_uint8(frame: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] to uint8 (3, H, W)."""
    if frame.ndim != 4 or frame.shape[:2] != (1, 3):
        raise ValueError(f"expected one RGB picture (1, 3, H, W), got {tuple(frame.shape)}")
    return as_picture(frame.detach().float().cpu().numpy())


def _to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (3, H, W) to (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(as_float(np.ascontiguousarray(picture)))
