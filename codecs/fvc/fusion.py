"""Multi-frame fusion: what the paper has behind the residual decoder (section 3.5 there).

The released network has none, so the names and what the paper leaves open are ours. The features
of the last three decoded pictures are aligned to the frame's first reconstruction, which both ends
have, so their offsets cost no bits. From each of them and from the reconstruction itself, every
position takes a mixture of its 3x3 neighbourhood, weighted by likeness.

Between frames pictures are kept, not their features: features would cost no second extraction,
but each kept one would have to lose the same channels as those that are made now.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.deform import DeformableConv
from vcodecs.layers import conv

PICTURES = 3
SIDE = 3
"""Side of the neighbourhood."""


class Fusion(nn.Module):
    """Adds to a feature what three earlier ones have of it. All are (N, C, H, W)."""

    def __init__(self, feature: int) -> None:
        super().__init__()
        inner = feature // 4
        self.offset_conv1 = conv(2 * feature, feature, 3)
        self.offset_conv2 = conv(feature, feature, 3)
        self.deformable_convolution = DeformableConv(feature)
        self.query = conv(feature, inner, 3)
        self.key = conv(feature, inner, 3)
        self.value = conv(feature, inner, 3)
        self.merge = conv((PICTURES + 1) * inner, feature, 1)

    def forward(self, initial: Tensor, earlier: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        query = self.query(initial)
        features = [self._aligned(initial, feature) for feature in earlier]
        found = [self._attend(query, feature) for feature in (*features, initial)]
        return initial + self.merge(torch.cat(found, dim=1))

    def _aligned(self, initial: Tensor, feature: Tensor) -> Tensor:
        x = F.leaky_relu(self.offset_conv1(torch.cat((feature, initial), dim=1)), 0.1)
        return self.deformable_convolution(feature, F.leaky_relu(self.offset_conv2(x), 0.1))

    def _attend(self, query: Tensor, feature: Tensor) -> Tensor:
        likeness = (query.unsqueeze(2) * _neighbours(self.key(feature))).sum(1)
        weights = torch.softmax(likeness, dim=1).unsqueeze(1)
        return (weights * _neighbours(self.value(feature))).sum(2)


def _neighbours(x: Tensor) -> Tensor:
    """(N, C, 9, H, W): a tensor as seen from each position around, its border repeated."""
    padded = F.pad(x, [SIDE // 2] * 4, mode="replicate")
    # Ends counted from the end: constants in an exported graph of any size.
    parts = [slice(i, i - SIDE + 1 or None) for i in range(SIDE)]
    views = [padded[..., rows, columns] for rows in parts for columns in parts]
    return torch.stack(views, dim=2)
