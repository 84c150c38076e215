"""The score of a codec in training, on clips that it is not trained on."""

import torch
from torch import Tensor

from prune.data.source import Source
from prune.training.tradeoff import Tradeoff
from vcodecs import Reference, VideoCodec
from vcodecs.intra import IntraCodec

FRAMES = 6
"""Frames of a clip, the I frame included."""
SIDE = 256
"""Clips are scored on their middle, so many pixels squared at most."""


class Validation:
    """Codes the beginning of each clip in a coding loop, at every rate point.

    Called with a codec it returns the averages over clips and rates: "score", the loss
    lambda * MSE + bpp that training lowers, and "val_psnr" in dB and "val_bpp" of P frames.
    """

    def __init__(self, clips: Source, tradeoff: Tradeoff, intra: IntraCodec | None) -> None:
        self.tradeoff, self.intra = tradeoff, intra
        self.batches = _by_size([_middle(clips, index) for index in clips.usable(2, 64)])

    @torch.no_grad()
    def __call__(self, codec: VideoCodec) -> dict[str, float]:
        device = next(codec.parameters()).device
        points = list(zip(self.tradeoff.points, self.tradeoff.lagrangians, strict=True))
        found = [
            self._coded(codec, batch.to(device), rate, lagrangian)
            for batch in self.batches
            for rate, lagrangian in points
        ]
        score, psnr, bpp = torch.cat(found).mean(0).tolist()
        return {"score": score, "val_psnr": psnr, "val_bpp": bpp}

    def _coded(
        self, codec: VideoCodec, clips: Tensor, rate: float | None, lagrangian: float
    ) -> Tensor:
        """(N, 3): loss, PSNR and bits per pixel of N clips, each the mean over its P frames."""
        first = clips[:, 0]
        if self.intra:
            rates = None if rate is None else torch.full((len(clips),), float(rate))
            first = self.intra.pictures(first, rates)
        reference, pixels, found = Reference(first), clips.shape[-1] * clips.shape[-2], []
        for original in clips[:, 1:].unbind(1):
            coded = codec(original, reference, rate)
            error = (coded.frame.float() - original).square().flatten(1).mean(1)
            bpp = coded.total_bits() / pixels
            found.append(torch.stack((lagrangian * error + bpp, -10 * error.log10(), bpp), dim=1))
            reference = coded.reference
        return torch.stack(found).mean(0)


def _middle(clips: Source, index: int) -> Tensor:
    """(T, 3, H, W) in [0, 1], sides by 64."""
    info = clips.info(index)
    clip = clips.read(index, 0, min(FRAMES, info.frames))
    height, width = (min(SIDE, side // 64 * 64) for side in clip.shape[2:])
    top, left = (info.height - height) // 2, (info.width - width) // 2
    cut = clip[:, :, top : top + height, left : left + width].copy()
    return torch.from_numpy(cut).float() / 255


def _by_size(clips: list[Tensor]) -> list[Tensor]:
    """Clips of the same size as one tensor (N, T, 3, H, W)."""
    sizes = dict.fromkeys(clip.shape for clip in clips)
    return [torch.stack([clip for clip in clips if clip.shape == size]) for size in sizes]
