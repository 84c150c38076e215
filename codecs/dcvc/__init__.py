"""DCVC: deep contextual video compression (Li, Li, Lu, NeurIPS 2021).

`video` is the network and how it is trained, `receiver` how its frames become bits and pictures.
"""

from vcodecs.dcvc.video import DCVC

__all__ = ["DCVC"]
