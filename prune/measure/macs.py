"""Counting multiply-accumulates with torch's own counter, on shapes alone."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lvc.pictures import round_up
from prune.measure.deformable import FORMULAS
from vcodecs import Reference, VideoCodec
from vcodecs.layers import SubpelConv, fold
from vcodecs.parts import module_of


@dataclass(frozen=True)
class Macs:
    """MACs for one P frame: by layer (the last module that holds weights) and by module.

    Products that are in no layer, those of an attention, are of the module whose code takes them.
    """

    by_layer: dict[str, int]
    by_module: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_module.values())


def decoder_macs(codec: VideoCodec, height: int, width: int) -> Macs:
    """MACs of the receiver for one P frame of `height` x `width` (as it is padded).

    It is one behind another P frame; layers that only the first one needs count 0.

    Counted: convolutions, transposed ones over their input positions, masked ones densely, GDN as
    the 1x1 convolution that it is, deformable ones with what their fetching takes, and products of
    tensors, such as those of an attention, in the code of the decoder's modules. Not counted, as by
    torch's counter: warping, activations, element-wise arithmetic.
    """
    shadow = _shadow(codec)
    by_layer = _zero(shadow, codec.decoder_modules())
    layers, containers = set(by_layer), _containers(shadow, by_layer)
    for graph in shadow.steady_graphs(height, width):
        inputs = [torch.empty(s, device="meta") for s in graph.input_shapes().values()]
        _count(graph, inputs, by_layer, containers)
    counted = {name: macs for name, macs in by_layer.items() if macs or name in layers}
    return _macs(counted, codec.decoder_modules())


def encoder_macs(codec: VideoCodec, height: int, width: int) -> Macs:
    """MACs of the sender alone for one P frame: the modules that no receiver runs.

    The sender runs the decoder's modules as well; they are not in this figure.
    """
    shadow = _shadow(codec)
    names = [name for name in codec.parts() if name not in codec.decoder_modules()]
    by_layer = _zero(shadow, names)
    sides = (round_up(side, codec.multiple) for side in (height, width))
    frame = torch.empty(1, 3, *sides, device="meta")
    reference = Reference(frame)
    _count(_Coding(shadow, shadow.rates()[0]), [frame, reference], by_layer)
    return _macs(by_layer, names)


class _Coding(nn.Module):
    def __init__(self, codec: VideoCodec, rate: float | None) -> None:
        super().__init__()
        self.codec, self.rate = codec, rate

    def forward(self, frame: torch.Tensor, reference: Reference) -> None:
        self.codec.code(frame, reference, self.rate, None)


def _shadow(codec: VideoCodec) -> VideoCodec:
    """A copy without values: shapes are all that counting needs."""
    return fold(copy.deepcopy(codec)).to("meta")


def _zero(codec: nn.Module, modules: Sequence[str]) -> dict[str, int]:
    """Every layer with weights of these modules, at 0."""
    layers: dict[str, int] = {}
    inner: set[str] = set()
    for name, module in codec.named_modules():
        if module_of(name, modules) is None or name in inner:
            continue
        if isinstance(module, SubpelConv):
            inner.update(f"{name}.{child}" for child, _ in module.named_children())
            layers[name] = 0
        elif any(True for _ in module.parameters(recurse=False)) or hasattr(module, "beta"):
            layers[name] = 0
    return layers


def _containers(codec: VideoCodec, layers: Iterable[str]) -> list[str]:
    """Modules of the decoder that are in no layer and are none themselves."""
    known = set(layers)
    inside = codec.decoder_modules()
    return [
        name
        for name, _ in codec.named_modules()
        if module_of(name, inside) and module_of(name, known) is None
    ]


@torch.no_grad()
def _count(
    runner: nn.Module, inputs: list, by_layer: dict[str, int], containers: Iterable[str] = ()
) -> None:
    """Add the MACs of one call of `runner`, whose attribute `codec` is the codec, by layer.

    Of `containers` what none of their layers counts.

    A layer inside another (the one that steers a deformable convolution) counts for itself alone.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    elsewhere: list[int] = []
    """Operations before each layer that is running now, or in layers inside it."""

    def enter(*_: object) -> None:
        elsewhere.append(counter.get_total_flops())

    def leave(name: str):
        def hook(*_: object) -> None:
            own = counter.get_total_flops() - elsewhere.pop()
            by_layer[name] = by_layer.get(name, 0) + own // 2
            elsewhere[:] = [count + own for count in elsewhere]

        return hook

    hooks = []
    for name in {**by_layer, **dict.fromkeys(containers)}:
        layer = runner.get_submodule(f"codec.{name}")
        hooks.append(layer.register_forward_pre_hook(enter))
        hooks.append(layer.register_forward_hook(leave(name)))
    with counter:
        runner(*inputs)
    for hook in hooks:
        hook.remove()


def _macs(by_layer: dict[str, int], modules: Sequence[str]) -> Macs:
    by_module: dict[str, int] = {}
    for name, macs in by_layer.items():
        module = module_of(name, modules)
        assert module is not None, name
        by_module[module] = by_module.get(module, 0) + macs
    return Macs(by_layer, by_module)


def parameters(codec: VideoCodec, modules: tuple[str, ...] | None = None) -> int:
    """Number of weights, of the whole codec or of these modules."""
    if modules is None:
        return sum(p.numel() for p in codec.parameters())
    return sum(p.numel() for name in modules for p in codec.get_submodule(name).parameters())
