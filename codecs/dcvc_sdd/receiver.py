"""The receiver of DCVC-SDD as decoder graphs and as a program over them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lvc.latents import ORDINALS
from lvc.program import Step
from vcodecs.contract import Coding, DecoderGraph, grapher
from vcodecs.dcvc_sdd.blocks import split
from vcodecs.layers import layer_of

if TYPE_CHECKING:
    from vcodecs.dcvc_sdd.video import DCVCSDD

CONTEXTS = ("context", "half_context", "quarter_context")
_MINED_FROM = ("motion_latent", "motion_factor", "adapted", "reference")
MINED = (*CONTEXTS, "temporal_prior", "motion_feature", "hidden", "cell")
TURNS = ("adapted", "adapted_2", "adapted", "adapted_3")
"""Graphs that read the kept feature, by the P frame's position modulo 4."""


def coding(codec: "DCVCSDD") -> Coding:
    """See `VideoCodec.coding`."""
    return Coding(
        steps=(
            Step("factor", "motion_factor"),
            Step("factor", "latent_factor"),
            Step("hyper", "motion"),
            Step("run", "motion_parameters", after_intra="motion_parameters_after_intra"),
            Step("quarters", "motion", graphs=_later("motion")),
            Step("run", "adapted", after_intra="adapted_after_intra", graphs=TURNS),
            Step("run", "context", after_intra="context_after_intra"),
            Step("hyper", "latent"),
            Step("run", "latent_parameters", after_intra="latent_parameters_after_intra"),
            Step("quarters", "latent", graphs=_later("latent")),
            Step("run", "reconstruction"),
            *(Step("keep", name) for name in ("motion_feature", "hidden", "cell")),
        ),
        priors={"motion": codec.bit_estimator_z_mv, "latent": codec.bit_estimator_z},
        analyse=lambda *known: _analyse(codec, *known),
        factors={
            "motion_factor": codec.scales("mv_y", "dec"),
            "latent_factor": codec.scales("y", "dec"),
        },
    )


def tied_channels(codec: "DCVCSDD") -> tuple[tuple[str, str], ...]:
    """See `VideoCodec.tied_channels`."""
    chain = codec.mv_decoder.dec_1[4]
    last = f".{len(chain) - 1}" if isinstance(chain, nn.Sequential) else ""
    return (
        ("feature", "recon_generation_net.unet_2.up_conv2.block.1.conv.2"),
        ("motion_feature", f"mv_decoder.dec_1.4{last}.block.1.conv.2"),
        ("hidden", "lstm.conv"),
        ("cell", "lstm.conv"),
    )


def graphs(codec: "DCVCSDD", height: int, width: int) -> tuple[DecoderGraph, ...]:
    """See `VideoCodec.decoder_graphs`. Latents enter dequantised: symbols * step."""
    graph = grapher(codec, height, width, _shapes(codec))

    def later(stream: str, prefix: str) -> tuple[DecoderGraph, ...]:
        return tuple(
            graph(
                name,
                lambda codec, known, fused, step=step: codec.expected(prefix, step, known, fused),
                (f"{stream}_known", f"{stream}_fused"),
                (f"{stream}_{ordinal}_scale", f"{stream}_{ordinal}_mean"),
            )
            for step, (name, ordinal) in enumerate(zip(_later(stream), ORDINALS, strict=True), 1)
        )

    return (
        graph(
            "motion_parameters_after_intra",
            lambda codec, hyper: tuple(codec.motion_parameters(hyper, None)),
            ("motion_hyper",),
            _parameters("motion"),
            after_intra=True,
        ),
        graph(
            "motion_parameters",
            lambda codec, *known: tuple(codec.motion_parameters(*known)),
            ("motion_hyper", "previous_motion_latent"),
            _parameters("motion"),
        ),
        *later("motion", "mv_y"),
        graph(
            "adapted_after_intra",
            lambda codec, picture: codec.feature_adaptor_I(picture),
            ("reference",),
            ("adapted",),
            after_intra=True,
        ),
        *(
            graph(
                name,
                lambda codec, kept, layer=layer: codec.get_submodule(layer)(kept),
                ("previous_feature",),
                ("adapted",),
                in_turn=name != "adapted",
            )
            for name, layer in (
                ("adapted", "feature_adaptor"),
                ("adapted_2", "feature_adaptor2"),
                ("adapted_3", "feature_adaptor3"),
            )
        ),
        graph(
            "context_after_intra",
            _mined,
            _MINED_FROM,
            MINED,
            after_intra=True,
        ),
        graph(
            "context",
            _mined,
            (*_MINED_FROM, "previous_hidden", "previous_cell"),
            MINED,
        ),
        graph(
            "latent_parameters_after_intra",
            lambda codec, *known: tuple(codec.latent_parameters(*known, None)),
            ("latent_hyper", "temporal_prior"),
            _parameters("latent"),
            after_intra=True,
        ),
        graph(
            "latent_parameters",
            lambda codec, *known: tuple(codec.latent_parameters(*known)),
            ("latent_hyper", "temporal_prior", "previous_latent"),
            _parameters("latent"),
        ),
        *later("latent", "y"),
        graph(
            "reconstruction",
            _reconstructed,
            ("latent", "latent_factor", *CONTEXTS),
            ("frame", "feature"),
        ),
    )


def _later(stream: str) -> tuple[str, ...]:
    """The graphs of a latent's second, third and fourth step."""
    return tuple(f"{stream}_{ordinal}_parameters" for ordinal in ORDINALS)


def _parameters(stream: str) -> tuple[str, ...]:
    return tuple(f"{stream}_{part}" for part in ("step", "scale", "mean", "fused"))


def _shapes(codec: "DCVCSDD") -> dict[str, tuple[int, int]]:
    """Channels and stride of what enters graphs, as the layers (shrunk or not) have them."""
    motion = _inputs(codec, "mv_y_spatial_prior_adaptor_1") // 4
    latent = _inputs(codec, "y_spatial_prior_adaptor_1") // 4
    lasting = codec.lstm.conv.out_channels // 4
    last = codec.scales_out or [f"context_hidden_fusion{i}" for i in (1, 2, 3)]
    contexts = [_layer(codec, name).out_channels for name in last]
    temporal = layer_of(codec.temporal_prior_encoder, 2, nn.Conv2d).out_channels
    return {
        "reference": (3, 1),
        "motion_factor": (1, 0),
        "latent_factor": (1, 0),
        "motion_hyper": (layer_of(codec.mv_hyper_prior_decoder, 0, nn.Conv2d).in_channels, 64),
        "latent_hyper": (
            layer_of(codec.contextual_hyper_prior_decoder, 0, nn.Conv2d).in_channels,
            64,
        ),
        "motion_latent": (motion, 16),
        "motion_known": (motion, 16),
        "motion_fused": (3 * motion, 16),
        "previous_motion_latent": (motion, 16),
        "latent": (latent, 16),
        "latent_known": (latent, 16),
        "latent_fused": (3 * latent, 16),
        "previous_latent": (latent, 16),
        "temporal_prior": (temporal, 16),
        "previous_feature": (codec.feature_adaptor.in_channels, 1),
        "adapted": (codec.feature_adaptor.out_channels, 1),
        "previous_hidden": (lasting, 1),
        "previous_cell": (lasting, 1),
        **{name: (n, 2**i) for i, (name, n) in enumerate(zip(CONTEXTS, contexts, strict=True))},
    }


def _layer(codec: "DCVCSDD", name: str) -> nn.Conv2d:
    layer = codec.get_submodule(name)
    assert isinstance(layer, nn.Conv2d), name
    return layer


def _inputs(codec: "DCVCSDD", name: str) -> int:
    return _layer(codec, name).in_channels


def _mined(
    codec: "DCVCSDD",
    motion_latent: Tensor,
    factor: Tensor,
    adapted: Tensor,
    picture: Tensor,
    *state: Tensor,
) -> tuple[Tensor, ...]:
    """Contexts and what is kept; `factor` is the rate's share of the motion decoder's."""
    *motions, feature = codec.mv_decoder(motion_latent, codec.basic("mv_y", "dec") * factor)
    before = (state[0], state[1]) if state else None
    contexts, following = codec.mine(adapted, split(picture), motions, before)
    return *contexts, codec.temporal_prior_encoder(contexts[2]), feature, *following


def _reconstructed(
    codec: "DCVCSDD", latent: Tensor, factor: Tensor, *contexts: Tensor
) -> tuple[Tensor, Tensor]:
    full, half, quarter = contexts
    picture, feature = codec.reconstruct(
        latent, (full, half, quarter), codec.basic("y", "dec") * factor
    )
    return picture.clamp(0, 1), feature


def _analyse(
    codec: "DCVCSDD",
    stream: str,
    frame: Tensor,
    tensors: Mapping[str, Tensor],
    rate: float | None,
) -> tuple[Tensor, Tensor]:
    if stream == "motion":
        flows, _ = codec.estimate(frame, split(tensors["reference"]))
        before = tensors.get("previous_motion_feature")
        latent = codec.encode_motion(flows, before, rate)
        return latent, codec.mv_hyper_prior_encoder(latent)
    full, half, quarter = (tensors[name] for name in CONTEXTS)
    latent = codec.encode_picture(frame, (full, half, quarter), rate)
    return latent, codec.contextual_hyper_prior_encoder(latent)
