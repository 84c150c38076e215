"""Sizes of ELF-VC.

The paper's layer lists are in appendices that we have not: where it prints a width, ours is it,
and the others make its parameter counts come out (docs/codecs/elf_vc.md).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Widths:
    """Channels of delayed merges in encoders and decoders, of latents, hyper latents and state.

    `predictor`: of the flow predictor, and `predictor_depth` its blocks; 0: there is none.
    `quantised`: P frames' latents have quantiser widths by level too.
    """

    flow_encoder: int = 256
    flow_decoder: int = 64
    residue_encoder: int = 256
    residue_decoder: int = 128
    motion: int = 192
    latent: int = 192
    hyper: int = 192
    state: int = 64
    predictor: int = 64
    predictor_depth: int = 3
    quantised: bool = False


_SMALL = Widths(32, 32, 64, 64, 32, 64, 24, 32, predictor=16, predictor_depth=1, quantised=True)

PRESETS: dict[str, Widths] = {
    "official": Widths(),
    "no_predictor": Widths(predictor_depth=0),
    "small": _SMALL,
    "small_no_predictor": replace(_SMALL, predictor_depth=0),
    "tiny": Widths(16, 16, 16, 16, 16, 16, 16, 16, predictor=16, predictor_depth=1, quantised=True),
}
OURS = ("small", "small_no_predictor", "tiny")
"""Those that no paper has; they begin with weights of a classical codec."""
