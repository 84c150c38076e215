"""The score of a codec in training, on clips that it is not trained on."""

import torch
from torch import Tensor

from prune.data.source import Source
from prune.rates import Tradeoff
from vcodecs import Reference, VideoCodec
from vcodecs.intra import IntraCodec

FRAMES = 6
"""Of a clip, the I frame included."""
SIDE = 256
"""Clips are scored on their middle, so many pixels squared at most."""


class Validation:
    """Codes the beginning of each clip in a closed loop, at every rate point.

    Called with a codec it returns the averages over clips and rates: "score", the loss
    lambda * MSE + bpp that training lowers, and "val_psnr" in dB and "val_bpp" of P frames.
    """

    def __init__(self, clips: Source, tradeoff: Tradeoff, intra: IntraCodec | None) -> None:
        self.clips, self.tradeoff, self.intra = clips, tradeoff, intra
        self.usable = clips.usable(2, 64)

    @torch.no_grad()
    def __call__(self, codec: VideoCodec) -> dict[str, float]:
        device = next(codec.parameters()).device
        points = list(zip(self.tradeoff.points, self.tradeoff.lagrangians, strict=True))
        found = [
            self._coded(codec, self._middle(index).to(device), rate, lagrangian)
            for index in self.usable
            for rate, lagrangian in points
        ]
        score, psnr, bpp = torch.stack(found).mean(0).tolist()
        return {"score": score, "val_psnr": psnr, "val_bpp": bpp}

    def _middle(self, index: int) -> Tensor:
        """(T, 3, H, W) in [0, 1], sides by 64."""
        info = self.clips.info(index)
        clip = self.clips.read(index, 0, min(FRAMES, info.frames))
        height, width = (min(SIDE, side // 64 * 64) for side in clip.shape[2:])
        top, left = (info.height - height) // 2, (info.width - width) // 2
        cut = clip[:, :, top : top + height, left : left + width].copy()
        return torch.from_numpy(cut).float() / 255

    def _coded(
        self, codec: VideoCodec, clip: Tensor, rate: float | None, lagrangian: float
    ) -> Tensor:
        """(3,): loss, PSNR and bits per pixel, each the mean over the P frames."""
        first = clip[:1]
        if self.intra:
            rates = None if rate is None else torch.full((1,), float(rate), device=clip.device)
            first = self.intra.pictures(first, rates)
        reference, pixels, found = Reference(first), clip.shape[-1] * clip.shape[-2], []
        for original in clip[1:].split(1):
            coded = codec(original, reference, rate)
            error = (coded.frame.float() - original).square().mean()
            bpp = coded.total_bits().sum() / pixels
            found.append(torch.stack((lagrangian * error + bpp, -10 * error.log10(), bpp)))
            reference = coded.reference
        return torch.stack(found).mean(0)
