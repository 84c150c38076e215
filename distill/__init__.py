"""distill: layer-wise teacher-student distillation for video decoders."""

from distill.adapters import common_taps, make_adapters
from distill.distiller import Distiller
from distill.stages import decoder_stages
from distill.taps import Tap, find_taps
from distill.weights import AdaptiveWeights

__all__ = [
    "AdaptiveWeights",
    "Distiller",
    "Tap",
    "common_taps",
    "decoder_stages",
    "find_taps",
    "make_adapters",
]
