"""The parts of a decoder's time: its layers by kind, and passes over memory between them.

Read off a pass on shapes alone. Linear layers, which read one vector a frame here, count nothing. A
pass over memory (a sum, a concatenation, a warp) belongs to the layers whose channels it reads, and
grows with them.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vcodecs import VideoCodec
from vcodecs.deform import GROUPS, DeformableConv
from vcodecs.layers import FoldedGDN, SubpelConv, fold
from vcodecs.parts import module_of


@dataclass(frozen=True, order=True)
class LayerKind:
    """A kind of layer on inputs of `height` x `width`; channel counts are what a table is over.

    `operator`: conv, transposed, subpel (`stride` is then its factor), deform (`groups` of
    offsets), norm; pass and warp are no layers but what goes over their results.
    """

    operator: str
    kernel: int
    stride: int
    height: int
    width: int
    groups: int = 1

    def per_channel(self) -> bool:
        """Whether its outputs are its inputs."""
        return self.operator in ("norm", "pass", "warp")


@dataclass(frozen=True)
class Work:
    """`times` runs of one kind at `inputs` and `outputs` channels, by the layer `layer`."""

    layer: str
    kind: LayerKind
    inputs: int
    outputs: int
    times: int = 1


def decoder_work(codec: VideoCodec, height: int, width: int) -> list[Work]:
    """The receiver's work for a P frame behind another; sides are rounded up to 64."""
    shadow = fold(copy.deepcopy(codec)).to("meta").requires_grad_(True)
    watch = _Watch()
    for graph in shadow.steady_graphs(height, width):
        hooks = _hooks(graph, shadow, watch)
        inputs = [torch.empty(s, device="meta") for s in graph.input_shapes().values()]
        with watch, torch.enable_grad():
            graph(*inputs)
        for hook in hooks:
            hook.remove()
    return [Work(*key, times=times) for key, times in watch.found.items()]


class _Watch(TorchFunctionMode):
    """Counts the work of a pass by (layer, kind, inputs, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, LayerKind, int, int], int] = {}
        self.producers: dict[object, str] = {}
        self.inside = 0
        """The number of layers that are running: what happens in them is theirs."""

    def add(self, layer: str, kind: LayerKind, inputs: int, outputs: int) -> None:
        key = (layer, kind, inputs, outputs)
        self.found[key] = self.found.get(key, 0) + 1

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        # Activations are one with the convolution in front of them in every runtime.
        if self.inside or "relu" in name or not _is_new_picture(result):
            return result
        operator = "warp" if name.startswith("grid_sample") else "pass"
        for read in _tensors(args):
            layer = self.layer_behind(read) if read.dim() == 4 else None
            if layer is not None:
                kind = LayerKind(operator, 0, 1, *result.shape[-2:])
                self.add(layer, kind, read.shape[1], read.shape[1])
            if operator == "warp":
                break  # the grid's own channels are two
        return result

    def layer_behind(self, tensor: Tensor) -> str | None:
        """The nearest layer that a tensor was computed from."""
        pending, seen = [tensor.grad_fn], set()
        while pending:
            node = pending.pop(0)
            if node in self.producers:
                return self.producers[node]
            if node is not None and node not in seen:
                seen.add(node)
                pending += [following for following, _ in node.next_functions]
        return None


def _hooks(graph: nn.Module, codec: VideoCodec, watch: _Watch) -> list[Any]:
    hooks = []
    inside = codec.decoder_modules()
    subpel: list[str] = []
    for name, layer in codec.named_modules():
        if module_of(name, inside) is None or module_of(name, subpel) or not _operator(layer):
            continue
        if isinstance(layer, SubpelConv):
            subpel.append(name)
        hooks.append(layer.register_forward_pre_hook(_enter(watch)))
        hooks.append(layer.register_forward_hook(_leave(watch, name)))
    return hooks


def _enter(watch: _Watch) -> Callable:
    def hook(*_: object) -> None:
        watch.inside += 1

    return hook


def _leave(watch: _Watch, name: str) -> Callable:
    def hook(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        watch.inside -= 1
        watch.producers[output.grad_fn] = name
        given = inputs[0]
        if given.dim() == 4:
            watch.add(name, kind_of(layer, *given.shape[-2:]), given.shape[1], output.shape[1])

    return hook


def kind_of(layer: nn.Module, height: int, width: int) -> LayerKind:
    """The kind of a layer that reads `height` x `width`."""
    operator = _operator(layer)
    if operator == "norm":
        return LayerKind(operator, 1, 1, height, width)
    if operator == "subpel":
        kernel = layer[0].kernel_size[0]  # type: ignore[index]  # a Sequential
        return LayerKind(operator, kernel, layer.factor, height, width)  # type: ignore[arg-type]
    if isinstance(layer, DeformableConv):
        return LayerKind(operator, layer.kernel_size[0], 1, height, width, GROUPS)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d), layer
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    return LayerKind(operator, kernel, stride, height, width, layer.groups)


def _operator(layer: nn.Module) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (DeformableConv, "deform"),
        (SubpelConv, "subpel"),
        (FoldedGDN, "norm"),
        (nn.ConvTranspose2d, "transposed"),
        (nn.Conv2d, "conv"),
    )
    return next((name for kind, name in kinds if isinstance(layer, kind)), "")


def _is_new_picture(result: Any) -> bool:
    return isinstance(result, Tensor) and result.dim() == 4 and not result._is_view()


def _tensors(args: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found
