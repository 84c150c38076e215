"""FVC's receiver: its graphs, its tensors by name, and the program over them.

With fusion, `previous_feature` is the `feature` of the frame before: the two pictures before its
reference. Behind an I frame it is that frame's picture twice.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lvc.program import Step
from vcodecs.contract import Coding, DecoderGraph, grapher

if TYPE_CHECKING:
    from vcodecs.fvc.video import FVC


def tensors(codec: "FVC") -> dict[str, tuple[int, int]]:
    """Every tensor that a graph reads: channels, and the stride of its rows and columns."""
    feature = codec.Decoder.deconv1.in_channels
    return {
        "reference": (3, 1),
        "previous_feature": (6, 1),
        "aligned": (feature, 2),
        "reference_feature": (feature, 2),
        "motion_hyper": (codec.OffsetPriorDecoder.deconv1.in_channels, 64),
        "motion_latent": (codec.aligner.offset_decoder.deconv1.in_channels, 16),
        "latent_hyper": (codec.resPriorDecoder.deconv1.in_channels, 64),
        "latent": (codec.resDecoder.deconv1.in_channels, 16),
    }


def coding(codec: "FVC") -> Coding:
    """The program, and what the encoder brings to it."""

    def analyse(
        stream: str, frame: Tensor, known: Mapping[str, Tensor], rate: float | None
    ) -> tuple[Tensor, Tensor]:
        now = codec.Encoder(frame)
        if stream == "motion":
            return codec.encode_motion(codec.Encoder(known["reference"]), now)
        return codec.encode_residual(now, known["aligned"])

    first = () if codec.fusion is None else (Step("first", "previous_feature", copies=2),)
    return Coding(
        steps=(
            *first,
            Step("hyper", "motion"),
            Step("run", "motion_parameters"),
            Step("plain", "motion", distribution="normal"),
            Step("run", "alignment"),
            Step("hyper", "latent"),
            Step("run", "latent_parameters"),
            Step("plain", "latent", distribution="normal"),
            Step("run", "reconstruction"),
        ),
        priors={"motion": codec.EntropyCoding_offsetz, "latent": codec.EntropyCoding_residualz},
        analyse=analyse,
    )


def graphs(codec: "FVC", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """The graphs for frames of this size."""
    graph = grapher(codec, height, width, tensors(codec))
    fusing = codec.fusion is not None
    earlier = ("previous_feature",) if fusing else ()
    before = ("reference_feature",) if fusing else ()
    return (
        graph(
            "motion_parameters",
            lambda codec, hyper: codec.motion_parameters(hyper),
            ("motion_hyper",),
            ("motion_mean", "motion_scale"),
        ),
        graph(
            "alignment",
            _aligned_for_fusion if fusing else _aligned,
            ("motion_latent", "reference", *earlier),
            ("aligned", "reference_feature", "feature") if fusing else ("aligned",),
        ),
        graph(
            "latent_parameters",
            lambda codec, hyper: codec.latent_parameters(hyper),
            ("latent_hyper",),
            ("latent_mean", "latent_scale"),
        ),
        graph("reconstruction", _picture, ("latent", "aligned", *before, *earlier), ("frame",)),
    )


def shifted(reference: Tensor, earlier: Tensor) -> Tensor:
    """The two pictures before the next frame's reference, the later one first."""
    return torch.cat((reference, earlier[:, :3]), dim=1)


def _aligned(codec: "FVC", motion_latent: Tensor, reference: Tensor) -> Tensor:
    return codec.aligner.align(codec.Encoder(reference), motion_latent)


def _aligned_for_fusion(
    codec: "FVC", motion_latent: Tensor, reference: Tensor, earlier: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    before = codec.Encoder(reference)
    return codec.aligner.align(before, motion_latent), before, shifted(reference, earlier)


def _picture(
    codec: "FVC",
    latent: Tensor,
    aligned: Tensor,
    before: Tensor | None = None,
    earlier: Tensor | None = None,
) -> Tensor:
    return codec.reconstruct(latent, aligned, before, earlier).clamp(0, 1)
