"""The receiver of ELF-VC as decoder graphs and as a program over them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lvc.program import Step
from vcodecs.contract import Coding, DecoderGraph, grapher
from vcodecs.elf_vc.blocks import LEVELS, DelayedMerge
from vcodecs.layers import layer_of

if TYPE_CHECKING:
    from vcodecs.elf_vc.networks import Decoder
    from vcodecs.elf_vc.video import ELFVC

KEPT = ("flow", "earlier")


def tensors(codec: "ELFVC") -> dict[str, tuple[int, int]]:
    """Every tensor that a graph reads: channels, and the stride of its rows and columns."""
    return {
        "level": (LEVELS, 0),
        "reference": (3, 1),
        "previous_earlier": (3, 1),
        "previous_flow": (3, 1),
        "previous_feature": (codec.residue_decoder.head.in_channels, 4),
        "predicted": (2, 1),
        "motion_hyper": (_hyper(codec.flow_hyper_decoder), 64),
        "motion_latent": (_latent(codec.flow_decoder), 16),
        "compensated": (3, 1),
        "state": (codec.flow_decoder.head.in_channels, 4),
        "latent_hyper": (_hyper(codec.residue_hyper_decoder), 64),
        "latent": (_latent(codec.residue_decoder), 16),
    }


def coding(codec: "ELFVC") -> Coding:
    """See `VideoCodec.coding`."""
    predict = Step("run", "predicted", after_intra="predicted_after_intra")
    return Coding(
        steps=(
            Step("level", "level"),
            *((predict,) if codec.flow_predictor is not None else ()),
            Step("hyper", "motion"),
            Step("run", "motion_parameters"),
            Step("relative", "motion", distribution="normal"),
            Step("run", "compensated", after_intra="compensated_after_intra"),
            Step("hyper", "latent"),
            Step("run", "latent_parameters"),
            Step("relative", "latent", distribution="normal"),
            Step("run", "reconstruction"),
            *(Step("keep", name) for name in KEPT if codec.flow_predictor is not None),
        ),
        priors={"motion": codec.flow_prior, "latent": codec.residue_prior},
        analyse=lambda stream, frame, known, rate: _analyse(codec, stream, frame, known),
    )


def graphs(codec: "ELFVC", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """See `VideoCodec.decoder_graphs`. Latents enter in units of their quantisers."""
    graph = grapher(codec, height, width, tensors(codec))
    predicting = codec.flow_predictor is not None
    predicted = ("predicted",) if predicting else ()
    kept = ("flow", "earlier") if predicting else ()
    level = ("level",) if codec.flow_widths is not None else ()
    made = ("compensated", "state", *kept)

    def parameters(stream: str, block: str) -> DecoderGraph:
        return graph(
            f"{stream}_parameters",
            lambda codec, *known: codec.expected(block, *known),
            (f"{stream}_hyper", *level),
            (f"{stream}_mean", f"{stream}_scale"),
        )

    predictors = (
        graph(
            "predicted_after_intra",
            lambda codec, picture, level: codec.predict(picture, None, None, level),
            ("reference", "level"),
            ("predicted",),
            after_intra=True,
        ),
        graph(
            "predicted",
            lambda codec, *known: codec.predict(*known),
            ("reference", "previous_earlier", "previous_flow", "level"),
            ("predicted",),
        ),
    )
    return (
        *(predictors if predicting else ()),
        parameters("motion", "flow"),
        graph(
            "compensated_after_intra",
            lambda codec, *known: _compensated(codec, None, *known),
            ("motion_latent", "level", "reference", *predicted),
            made,
            after_intra=True,
        ),
        graph(
            "compensated",
            _compensated,
            ("previous_feature", "motion_latent", "level", "reference", *predicted),
            made,
        ),
        parameters("latent", "residue"),
        graph(
            "reconstruction",
            _reconstructed,
            ("latent", "compensated", "state", "level"),
            ("frame", "feature"),
        ),
    )


def _compensated(
    codec: "ELFVC",
    state: Tensor | None,
    motion: Tensor,
    level: Tensor,
    picture: Tensor,
    predicted: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The compensated picture, the state, and what the next prediction is made of, if any is."""
    moved, following, flow = codec.compensate(motion, predicted, picture, state, level)
    return (moved, following) if predicted is None else (moved, following, flow, picture + 0)


def _reconstructed(
    codec: "ELFVC", latent: Tensor, compensated: Tensor, state: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    picture, following = codec.reconstruct(latent, compensated, state, level)
    return picture.clamp(0, 1), following


def _analyse(
    codec: "ELFVC", stream: str, frame: Tensor, known: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    level = known["level"]
    if stream == "motion":
        latent = codec.encode_flow(
            frame, known["reference"], known.get("predicted"), known.get("previous_feature"), level
        )
        return latent, codec.flow_hyper_encoder(latent)
    latent = codec.encode_residue(frame, known["compensated"], known["state"], level)
    return latent, codec.residue_hyper_encoder(latent)


def _hyper(network: nn.Sequential) -> int:
    return layer_of(network, 0, nn.ConvTranspose2d).in_channels


def _latent(decoder: "Decoder") -> int:
    first = layer_of(decoder.blocks, 0, DelayedMerge).convs[0]
    assert isinstance(first, nn.Conv2d)
    return first.in_channels - LEVELS
