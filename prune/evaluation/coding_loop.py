"""P frames coded one after the other, each from what a receiver has of the one before."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from lvc.pictures import padded
from lvc.program import Levels, Tensors
from vcodecs.coding import TorchNetworks, can_code, compress
from vcodecs.contract import Reference, VideoCodec, pad

Bits = Literal["real", "estimated"]
"""`real`: those of the entropy-coded payload; `estimated`: those of the codec's `code`."""


class Loop(Protocol):
    """One codec's state between the frames of a clip."""

    def start(self, picture: Tensor) -> None:
        """Go on from a decoded I frame (1, 3, H, W)."""

    def code(self, original: Tensor, rate: float | None) -> tuple[Tensor, float]:
        """Code the next frame (1, 3, H, W): the decoded picture, and its bits."""


def loop(codec: VideoCodec, bits: Bits, receiver: Levels | None = None) -> Loop:
    """A coder of clips with `codec`, in the mode and on the device that it is in.

    `receiver`, for real bits, runs what a receiver runs, such as a bundle of the same weights.
    """
    return RealLoop(codec, receiver) if bits == "real" else EstimatedLoop(codec)


def possible_bits(codec: VideoCodec, wanted: Bits) -> Bits:
    """`wanted`, or "estimated" where the codec does not say how its frames become bits."""
    return wanted if can_code(codec) else "estimated"


class EstimatedLoop:
    """By the codec's forward pass, as it was trained."""

    def __init__(self, codec: VideoCodec) -> None:
        self._codec = codec

    def start(self, picture: Tensor) -> None:
        self._reference = Reference(frame=picture)

    def code(self, original: Tensor, rate: float | None) -> tuple[Tensor, float]:
        coded = self._codec(original, self._reference, rate)
        self._reference = coded.reference
        return coded.frame, float(coded.total_bits())


class RealLoop:
    """By entropy coding: the bits are those of the payload, the pictures what it decodes to."""

    def __init__(self, codec: VideoCodec, receiver: Levels | None = None) -> None:
        self._networks, self._receiver = TorchNetworks(codec), receiver

    def start(self, picture: Tensor) -> None:
        self._before: Tensors = {
            "reference": padded(picture.float().cpu().numpy(), self._networks.multiple)
        }

    def code(self, original: Tensor, rate: float | None) -> tuple[Tensor, float]:
        height, width = original.shape[-2:]
        given = pad(original, multiple=self._networks.multiple)
        coded = compress(self._networks, given, self._before, rate, self._receiver)
        self._before = coded.following
        picture = torch.from_numpy(self._before["reference"][..., :height, :width])
        return picture.to(original.device), 8.0 * len(coded.payload)
