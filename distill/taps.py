"""Where features are compared: the building blocks of the decoder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vcodecs import Reference, VideoCodec
from vcodecs.layers import GDN

Hooks = list[torch.utils.hooks.RemovableHandle]


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
    """Names of the taps: the largest blocks of the decoder that make one feature of one.

    Chains are taken apart into their links, and so is a block that reads or yields several
    tensors. Normalisations are left out (they only rescale), and so is what yields no feature map.
    """
    simple = _simple_blocks(codec)
    taps: list[str] = []
    for name in codec.decoder_modules():
        taps += _taps_in(name, codec.get_submodule(name), simple)
    return tuple(taps)


def _taps_in(name: str, block: nn.Module, simple: set[str]) -> list[str]:
    if type(block) is not nn.Sequential and name in simple:
        return [name] if _makes_features(block) else []
    inside = [_taps_in(f"{name}.{key}", part, simple) for key, part in block.named_children()]
    return [tap for taps in inside for tap in taps]


@torch.no_grad()
def _simple_blocks(codec: VideoCodec) -> set[str]:
    """Modules that make one feature map of one, as seen while two P frames are coded."""
    seen: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple, named: dict, output: object) -> None:
            one = len(inputs) == 1 and not named and _is_map(inputs[0]) and _is_map(output)
            seen[name] = seen.get(name, True) and one

        return hook

    hooks = [
        module.register_forward_hook(note(name), with_kwargs=True)
        for name, module in codec.named_modules()
        if name
    ]
    _code_two_frames(codec, hooks)
    return {name for name, one in seen.items() if one}


def widths(codec: VideoCodec, names: Sequence[str]) -> dict[str, int]:
    """Channels that each of these blocks yields, as seen while two P frames are coded."""
    seen: dict[str, int] = {}
    with torch.no_grad():
        hooks = listen(codec, names, lambda name, _, made: seen.update({name: made.shape[1]}))
        _code_two_frames(codec, hooks)
    return seen


def _code_two_frames(codec: VideoCodec, hooks: Hooks) -> None:
    """So that these hooks have seen every block at work; they are removed."""
    training = codec.training
    sides = (codec.multiple, codec.multiple)
    frame = torch.zeros(1, 3, *sides, device=next(codec.parameters()).device)
    try:
        codec.eval()
        coded = codec.code(frame, Reference(frame), codec.rates()[0], None)
        codec.code(frame, coded.reference, codec.rates()[0], None)
    finally:
        codec.train(training)
        for hook in hooks:
            hook.remove()


def _is_map(x: object) -> bool:
    return isinstance(x, Tensor) and x.dim() == 4


def _makes_features(block: nn.Module) -> bool:
    if isinstance(block, GDN):
        return False
    return any(isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in block.modules())


def listen(
    codec: nn.Module, names: Sequence[str], receive: Callable[[str, Tensor, Tensor], None]
) -> Hooks:
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
