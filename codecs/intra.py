"""I frames by a real image or video codec, or by a learned picture codec."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

import vcodecs
from lvc.errors import UserError
from lvc.intra import PICTURE_CODERS, PictureCoder, create_from
from lvc.pictures import as_picture
from lvc.program import Levels, digest
from lvc.rates import single
from vcodecs.coding import TorchNetworks, can_code, compress
from vcodecs.contract import CodedFrame, Reference, pad


@dataclass(frozen=True)
class CodedPicture:
    """One I frame: what a receiver sees, (1, 3, H, W) in [0, 1], and the bits that it takes.

    `payload` and the `digest` of its symbols are what a file's packet holds, empty where the bits
    are estimates.
    """

    frame: Tensor
    bits: float
    payload: bytes = b""
    digest: int = 0


class IntraCodec(ABC):
    """Codes one picture by itself; `lvc.intra.IntraDecoder` is its receiver.

    `name` says in a report what was used. `rated`: whether the rate that is asked for makes a
    difference. `rate`: at which all pictures are coded; None where it is that of the P frames.
    """

    name: str
    rated = False
    rate: float | None = None

    @abstractmethod
    def encode(self, frame: Tensor, rate: float | None = None) -> CodedPicture:
        """Code one picture (1, 3, H, W), RGB in [0, 1]."""

    def said(self) -> dict[str, str]:
        """What a file's header says of it. UserError where no file can hold such I frames."""
        raise UserError(f"{self.name}: an .lvc file cannot hold such I frames")

    def pictures(self, frames: Tensor, rates: Tensor | None = None) -> Tensor:
        """The pictures that a receiver sees of (N, 3, H, W); `rates` (N,) where there are many."""
        each = [None] * len(frames) if rates is None else rates.tolist()
        shown = [self.encode(x[None], r).frame for x, r in zip(frames, each, strict=True)]
        return torch.cat(shown)


class ConventionalIntra(IntraCodec):
    """A coder of 8-bit pictures, made from `spec`; `rate` is of no effect."""

    def __init__(self, coder: PictureCoder, spec: str) -> None:
        self.coder, self.name = coder, coder.name
        self._said = dict(zip(("codec", "options"), spec.partition(":")[::2], strict=True))

    def encode(self, frame: Tensor, rate: float | None = None) -> CodedPicture:
        payload = self.coder.compress(_to_uint8(frame))
        height, width = frame.shape[-2:]
        shown, found = self.coder.decode(payload, height, width)
        picture = torch.from_numpy(shown).to(frame.device)
        return CodedPicture(picture, 8.0 * len(payload), payload, found)

    def said(self) -> dict[str, str]:
        return self._said


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
        self.rate = single(_as_number(rate))
        if self.rated and self.rate is not None:
            low, high = self.network.rates()[0], self.network.rates()[-1]
            if not low <= self.rate <= high:
                raise UserError(
                    f"rate {self.rate:g} is out of range: give one of {low:g} to {high:g}"
                )
        self._check_independence()
        self._networks = TorchNetworks(self.network) if can_code(self.network) else None
        self._receiver: Levels | None = None
        self.name = f"{name} {preset} ({checkpoint})"
        if self._networks is None:
            self.name += ", estimated bits"
        if self.rate is not None:
            self.name += f", rate {self.rate:g}"

    def code_by(self, networks: TorchNetworks, receiver: Levels | None = None) -> None:
        """Code by `networks`, of this network at another margin; `receiver` as for `compress`."""
        self._networks, self._receiver = networks, receiver

    def encode(self, frame: Tensor, rate: float | None = None) -> CodedPicture:
        if self._networks is None:
            estimated = self._code(frame, rate)
            return CodedPicture(estimated.frame, float(estimated.total_bits()))
        height, width = frame.shape[-2:]
        self.network.to(frame.device)
        coded = compress(
            self._networks, self._padded(frame), {}, self._rate_of(rate), self._receiver
        )
        shown = torch.from_numpy(coded.following["reference"][..., :height, :width])
        bits, found = 8.0 * len(coded.payload), digest(coded.symbols)
        return CodedPicture(shown.to(frame.device), bits, coded.payload, found)

    def _padded(self, frame: Tensor) -> Tensor:
        return pad(frame, multiple=self.network.multiple)

    def said(self) -> dict[str, str]:
        if self._networks is None:
            return super().said()
        codec, weights = self._networks.codec, self._networks.identity
        return {"codec": codec.name, "preset": codec.preset, "weights": weights}

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


_NETWORK = {"network": NetworkIntra}
"""Beside the coders of `lvc.intra.PICTURE_CODERS`, which need no torch."""


def register_intra(name: str, factory: Callable[..., PictureCoder]) -> None:
    """Add a coder of pictures: `factory` takes its options as keywords (whole numbers as int).

    Files with its I frames can be played wherever it is registered.
    """
    if name in intra_names():
        raise ValueError(f"intra codec {name!r} is registered already")
    PICTURE_CODERS[name] = factory


def intra_names() -> tuple[str, ...]:
    """Registered names, for `create_intra`."""
    return (*PICTURE_CODERS, *_NETWORK)


def create_intra(spec: str) -> IntraCodec:
    """Make an intra codec from "NAME" or "NAME:key=value,key=value".

    Examples: "hevc:qp=22", "h264:qp=20,matrix=bt601,range=full", "lossless",
    "network:checkpoint=dcvc_hem_intra_small". An unknown name, key or value is a UserError that
    lists the known ones.
    """
    if spec.partition(":")[0] in _NETWORK:
        return create_from(_NETWORK, spec)
    return ConventionalIntra(create_from(PICTURE_CODERS, spec, intra_names()), spec)


def _to_uint8(frame: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] to uint8 (3, H, W)."""
    if frame.ndim != 4 or frame.shape[:2] != (1, 3):
        raise ValueError(f"expected one RGB picture (1, 3, H, W), got {tuple(frame.shape)}")
    return as_picture(frame.detach().float().cpu().numpy())
