"""Ways to train under masks, as factors of weights (forward) and of gradients (backward).

`m` is the hard mask, `beta` runs from 1 to 0 over the sparse training.

| method           | forward          | backward         | source                                  |
|------------------|------------------|------------------|-----------------------------------------|
| gradient-decay   | m                | m + beta (1 - m) | Peng et al., PCS 2024                   |
| straight-through | m                | 1                | Bengio et al., 2013                     |
| mask-decay       | m + beta (1 - m) | m + beta (1 - m) | after EVC, Wang et al., ICLR 2023       |
| one-shot         | m                | m                | magnitude, then fine-tuning             |
"""

import math

import torch
from torch import Tensor

from prune.recipe import BetaSection


def factors(method: str, mask: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Forward and backward factors (C,) for a hard mask (C,) of 0 and 1, beta in [0, 1]."""
    decayed = mask + beta * (1 - mask)
    if method == "gradient-decay":
        return mask, decayed
    if method == "straight-through":
        return mask, torch.ones_like(mask)
    if method == "mask-decay":
        return decayed, decayed
    if method == "one-shot":
        return mask, mask
    raise ValueError(f"no method {method!r}")


def beta_at(section: BetaSection, progress: float) -> float:
    """beta when `progress` (0 to 1) of the sparse training is done."""
    part = (progress - section.begin) / (section.finish - section.begin)
    part = min(1.0, max(0.0, part))
    if section.shape == "cosine":
        part = (1 - math.cos(math.pi * part)) / 2
    return section.start + (section.end - section.start) * part
