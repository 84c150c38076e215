"""SlimVC ("Slimmable Video Codec", arXiv, May 2022).

One set of weights, five widths: narrow networks are the first channels of wide ones, and the width
is the rate. No motion: what frames have in common is used by the entropy model alone.
"""

from vcodecs.slimvc.video import SlimVC

__all__ = ["SlimVC"]
