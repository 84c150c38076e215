"""DCVC-SDD (Sheng, Li, Liu, Li, TCSVT 2024) and its large versions, NVC-1B among them.

Motion is estimated, sent and compensated for a picture's structure and its detail apart; a
recurrent cell collects what all frames so far have shown; latents are read in four steps (`prior`).
"""

from vcodecs.dcvc_sdd.video import DCVCSDD

__all__ = ["DCVCSDD"]
