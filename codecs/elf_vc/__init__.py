"""ELF-VC (Rippel et al., "Efficient, Learned and Flexible-Rate Video Coding", ICCV 2021).

One set of weights for all rates: a vector of levels is an input of every transform. Motion is
predicted from what both sides have, sent as a difference, and applied in scale space.
"""

from vcodecs.elf_vc.video import ELFVC

__all__ = ["ELFVC"]
