"""Channel groups under masks: one gate a group, on the weights of all its producers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prune.groups.channels import Group
from prune.groups.weights import (
    along_weight,
    filter_norms,
    followed_parameters,
    output_dim,
    producing_layers,
)
from prune.sparsify.gradient_decay import GradientDecay
from vcodecs import VideoCodec
from vcodecs.parts import module_of


@dataclass
class Gate:
    """The mask of one group as a step sees it; every tensor is (C,), one entry a channel.

    `value` is 0 or 1 and carries the gradient of the soft gate to the threshold; `forward` and
    `backward` are the factors of weights and of gradients.
    """

    value: Tensor
    forward: Tensor
    backward: Tensor


class ChannelMask(nn.Module):
    """Parametrisation of one weight or bias by the gate of its group."""

    def __init__(self, masked: "MaskedGroup", dim: int, channels: Tensor) -> None:
        super().__init__()
        # In a tuple, so that the group is no part of the codec's own modules and state.
        self._group = (masked,)
        self.dim = dim
        self.register_buffer("channels", channels, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        gate = self._group[0].gate
        return GradientDecay.apply(
            weight, gate.value, gate.forward, gate.backward, self.dim, self.channels
        )


class MaskedGroup:
    """A channel group of a codec with masks on all that makes, scales or shifts it."""

    def __init__(self, codec: VideoCodec, group: Group) -> None:
        self.group = group
        self.producers = producing_layers(codec, group)
        ones = torch.ones(group.size, device=self.producers[0][0].weight.device)
        self.gate = Gate(ones, ones, ones)
        for layer, channels in self.producers:
            weight_mask = ChannelMask(self, output_dim(layer), along_weight(layer, channels))
            parametrize.register_parametrization(layer, "weight", weight_mask)
            if layer.bias is not None:
                parametrize.register_parametrization(layer, "bias", ChannelMask(self, 0, channels))
        self.followed = followed_parameters(codec, group)
        for owner, key, dim, channels in self.followed:
            parametrize.register_parametrization(owner, key, ChannelMask(self, dim, channels))

    def norms(self) -> Tensor:
        """`filter_norms` of the weights behind the masks."""
        return filter_norms(self.producers, self.group.size)

    def unmask(self) -> None:
        """Take the masks off again; the unmasked weights stay."""
        masked = [(layer, key) for layer, _ in self.producers for key in ("weight", "bias")]
        for owner, key in masked + [(owner, key) for owner, key, _, _ in self.followed]:
            if parametrize.is_parametrized(owner, key):
                parametrize.remove_parametrizations(owner, key, leave_parametrized=False)


def kept_by_module(
    codec: VideoCodec, groups: Sequence[Group], counts: Sequence[float]
) -> dict[str, float]:
    """The part of its prunable channels that each decoder module keeps, by `kept/MODULE`."""
    kept: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for group, count in zip(groups, counts, strict=True):
        module = module_of(group.name, codec.decoder_modules()) or group.name
        kept[module] = kept.get(module, 0.0) + count * group.width
        sizes[module] = sizes.get(module, 0.0) + group.size * group.width
    return {f"kept/{module}": kept[module] / sizes[module] for module in kept}
