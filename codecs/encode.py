"""Video files to .lvc files, with torch."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from lvc.anchor import psnr
from lvc.container import Header, Writer
from lvc.decode import FrameProgress
from lvc.display import PLAIN, Display
from lvc.errors import UserError
from lvc.pictures import as_float, as_picture, padded
from lvc.program import Levels, Tensors, digest
from lvc.rates import single
from lvc.video import open_source
from vcodecs.coding import Compressed, TorchNetworks, compress
from vcodecs.intra import IntraCodec


@dataclass(frozen=True)
class Coded:
    """One frame's packet and what a receiver makes of it, uint8 RGB (3, H, W).

    `rate`: what it was coded at. `details`: of a P frame, such as its estimated bits.
    """

    kind: str
    payload: bytes
    digest: int
    picture: np.ndarray
    rate: float | None = None
    details: Compressed | None = None


class Encoder:
    """Codes the pictures of one video in their order.

    `receiver` runs the receiver's graphs of P frames, as for `compress`. UserError where a file
    cannot hold the I frames.
    """

    def __init__(
        self,
        networks: TorchNetworks,
        intra: IntraCodec,
        intra_period: int,
        rate: float | None = None,
        receiver: Levels | None = None,
    ) -> None:
        self.networks, self.intra, self.receiver = networks, intra, receiver
        self.intra_period = intra_period
        self.rate = single(rate)
        self._said = intra.said()
        self._number = 0
        self._before: Tensors = {}

    def header(self, width: int, height: int, fps: Fraction, display: Display = PLAIN) -> Header:
        """Header of the file that holds the packets."""
        return Header(
            codec=self.networks.codec.name,
            preset=self.networks.codec.preset,
            weights=self.networks.identity,
            width=width,
            height=height,
            fps=Fraction(fps).as_integer_ratio(),
            intra_period=self.intra_period,
            intra=self._said,
            margin=self.networks.margin,
            display=display,
            arithmetic=getattr(self.receiver, "arithmetic", None),
        )

    @property
    def next_is_intra(self) -> bool:
        """Whether the next picture becomes an I frame."""
        return self._number % self.intra_period == 0

    def code(self, picture: np.ndarray, rate: float | None = None) -> Coded:
        """The next picture, uint8 RGB (3, H, W); a `rate` of its own, else the encoder's."""
        coded, following = self._coded(picture, rate)
        self._number, self._before = self._number + 1, following
        return coded

    def attempt(self, picture: np.ndarray, rate: float) -> Coded:
        """What `code` would make of it; the encoder stays where it is."""
        return self._coded(picture, rate)[0]

    def _coded(self, picture: np.ndarray, rate: float | None) -> tuple[Coded, Tensors]:
        rate = self.rate if rate is None else single(rate)
        if self.next_is_intra:
            rate = rate if self.intra.rate is None else self.intra.rate
            sent = self.intra.encode(torch.from_numpy(as_float(picture)), rate)
            frame = sent.frame.numpy()
            following = {"reference": padded(frame, self.networks.multiple)}
            return Coded("I", sent.payload, sent.digest, as_picture(frame), rate), following
        given = torch.from_numpy(padded(as_float(picture), self.networks.multiple))
        coded = compress(self.networks, given, self._before, rate, self.receiver)
        shown = coded.following["reference"][..., : picture.shape[1], : picture.shape[2]]
        found = digest(coded.symbols)
        made = Coded("P", coded.payload, found, as_picture(shown), rate, coded)
        return made, coded.following


def encode_file(
    source: Path,
    target: Path,
    encoder: Encoder,
    frames: int | None = None,
    code: Callable[[Encoder, np.ndarray], Coded] = Encoder.code,
) -> FrameProgress:
    """Write `source` as an .lvc file; stopped early, what is written so far can be decoded.

    `code`: a rate control (`vcodecs.control`).
    """
    with open_source(source) as video:
        header = encoder.header(video.width, video.height, video.fps, video.display)
        total = min(filter(None, (video.frames, frames)), default=None)
        progress = FrameProgress(total)
        with Writer(target, header) as writer:
            for number, (picture, time) in enumerate(video.timed()):
                if number == frames:
                    break
                try:
                    coded = code(encoder, picture)
                except UserError as error:
                    raise UserError(f"{source}, frame {number}: {error}") from error
                length = writer.write(coded.kind, coded.payload, coded.rate, coded.digest, time)
                progress.step(8 * length, picture[0].size, psnr(picture, coded.picture))
        progress.end()
    return progress
