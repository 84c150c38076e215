"""The parts of compressai in use, imported without the noise of what it imports in turn."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    from compressai.layers import GDN, MaskedConv2d
    from compressai.ops import LowerBound, quantize_ste

__all__ = ["GDN", "LowerBound", "MaskedConv2d", "quantize_ste"]
