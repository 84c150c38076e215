"""The parts of CompressAI in use, imported without the noise of what it imports in turn."""

import warnings

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from compressai.layers import GDN, MaskedConv2d
        from compressai.ops import LowerBound, quantize_ste
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] != "compressai":
        raise
    from vcodecs.standins import (
        GDN,
        LowerBound,
        MaskedConv2d,
        quantize_ste,
    )

__all__ = ["GDN", "LowerBound", "MaskedConv2d", "quantize_ste"]
