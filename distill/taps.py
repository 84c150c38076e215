"""Where features are compared: the building blocks of the decoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vcodecs import VideoCodec
from vcodecs.layers import GDN


@dataclass(frozen=True)
class Tap:
    """One block of the decoder, by the same name in student and teacher.

    For a shrunk student, `inputs` and `outputs` are the teacher's channels that it still has;
    None stands for all of them.
    """

    name: str
    inputs: Tensor | None = None
    outputs: Tensor | None = None


def find_taps(codec: VideoCodec) -> tuple[str, ...]:
    """Names of the taps: every block with weights right below a decoder module.

    Normalisations are left out (they only rescale), and so is what yields no feature map.
    """
    names = []
    for module_name in codec.decoder_modules():
        module = codec.get_submodule(module_name)
        if isinstance(module, nn.Sequential):
            blocks = [(f"{module_name}.{key}", block) for key, block in module.named_children()]
        else:
            blocks = [(module_name, module)]
        names += [name for name, block in blocks if _makes_features(block)]
    return tuple(names)


def _makes_features(block: nn.Module) -> bool:
    if isinstance(block, GDN):
        return False
    return any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in block.modules())


def listen(
    codec: nn.Module, names: tuple[str, ...], receive: Callable[[str, Tensor, Tensor], None]
) -> list[torch.utils.hooks.RemovableHandle]:
    """Call `receive(name, input, output)` whenever a tap of `codec` has run."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, inputs, output: receive(name, inputs[0], output)

    return [codec.get_submodule(name).register_forward_hook(hook(name)) for name in names]


def select(feature: Tensor, channels: Tensor | None) -> Tensor:
    """The listed channels of (N, C, H, W)."""
    return feature if channels is None else feature.index_select(1, channels.to(feature.device))


def widen(feature: Tensor, channels: Tensor | None, width: int) -> Tensor:
    """A dense tensor of `width` channels with `feature` at the listed ones, zero elsewhere."""
    if channels is None:
        return feature
    n, _, height, columns = feature.shape
    wide = feature.new_zeros(n, width, height, columns)
    return wide.index_copy(1, channels.to(feature.device), feature)
