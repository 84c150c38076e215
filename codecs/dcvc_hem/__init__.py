"""DCVC-HEM: hybrid spatial-temporal entropy modelling (Li, Li, Lu, ACM MM 2022).

`video` codes P frames, `intra` the I frames; both serve a continuous range of rates with one set
of weights (`rate`), through quantisation at three granularities, and read their latents in two
parallel steps (`prior`).
"""

from vcodecs.dcvc_hem.intra import DCVCHEMIntra
from vcodecs.dcvc_hem.video import DCVCHEM

__all__ = ["DCVCHEM", "DCVCHEMIntra"]
