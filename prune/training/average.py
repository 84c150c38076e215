"""An exponential moving average of the weights: what is evaluated and saved of a long training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Averages `codec`'s parameters and buffers of floats over about 1 / (1 - decay) steps.

    Early on the average is over fewer steps, so that it does not remember the first weights.
    """

    def __init__(self, codec: nn.Module, decay: float) -> None:
        self.codec, self.decay, self.steps = codec, decay, 0
        self.values = {name: value.clone() for name, value in _floats(codec).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the codec's present weights; called after each step of the optimizer."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = _floats(self.codec)
        torch._foreach_lerp_([self.values[name] for name in now], list(now.values()), share)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The codec with the averaged weights; its own are back afterwards."""
        own = {name: value.clone() for name, value in _floats(self.codec).items()}
        self.copy_to_codec()
        try:
            yield self.codec
        finally:
            _assign(self.codec, own)

    def copy_to_codec(self) -> None:
        """Make the average the codec's weights for good."""
        _assign(self.codec, self.values)

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        return {"steps": self.steps, "values": dict(self.values)}

    def load_state_dict(self, state: dict) -> None:
        """Errors: KeyError or RuntimeError where the state is of another codec."""
        self.steps = int(state["steps"])
        for name, value in self.values.items():
            value.copy_(state["values"][name])


def _floats(codec: nn.Module) -> dict[str, Tensor]:
    state = codec.state_dict()
    return {name: value for name, value in state.items() if value.is_floating_point()}


@torch.no_grad()
def _assign(codec: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in _floats(codec).items():
        value.copy_(values[name])
