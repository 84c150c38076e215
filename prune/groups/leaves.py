"""Effects of layers on channels: which they read, which they make, which they treat one by one."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from prune.groups.labels import along
from prune.groups.operations import Book
from vcodecs import UserError
from vcodecs.layers import CompressAIGDN, GroupedConv, MaskedConv, SubpelConv
from vcodecs.motion import MovedGroups

Rule = Callable[[Book, str, nn.Module, Tensor, Tensor], Tensor]
"""(book, name of the layer, layer, labels of its input, its output) -> labels of the output."""


def is_convolution(layer: nn.Module) -> bool:
    """Whether this convolves as torch does: a subclass may compute anything."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    turned = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    if isinstance(layer, MaskedConv) or not isinstance(layer, (*kinds, *turned)):
        return isinstance(layer, MaskedConv)
    return any(type(layer).forward is kind.forward for kind in (*kinds, *turned))


def makes_channels(layer: nn.Module) -> bool:
    """Whether outputs of this layer are channels of its own."""
    return isinstance(layer, _ConvNd | nn.Linear | SubpelConv) or type(layer).__name__ == (
        "DeformConv2d"
    )


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule of this layer as a whole for channels; None where what it calls is followed."""
    if isinstance(layer, torch.jit.ScriptModule):
        return closed if any(True for _ in layer.parameters()) else None
    if isinstance(layer, SubpelConv):
        return _subpel
    if isinstance(layer, GroupedConv):
        return _alike_in_groups
    if isinstance(layer, MovedGroups):
        return _moved_groups
    if is_convolution(layer):
        return _convolution
    if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
        return _linear
    if isinstance(layer, CompressAIGDN | _NormBase):
        return _one_by_one
    if isinstance(layer, nn.PReLU):
        return _one_by_one if layer.num_parameters > 1 else None
    if isinstance(layer, nn.GroupNorm):
        return _group_norm
    if isinstance(layer, nn.LayerNorm) or type(layer).__name__ in ("LayerNorm2d", "RMSNorm"):
        return _layer_norm
    known = type(layer).__module__.startswith("torch.nn")
    holds_weights = any(True for _ in layer.parameters(recurse=False))
    return closed if known and holds_weights and not _is_container(layer) else None


def _is_container(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ParameterList | nn.ParameterDict) or parametrize.is_parametrized(
        layer
    )


def _convolution(book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    assert isinstance(layer, _ConvNd)
    return convolved(book, name, layer.in_channels, layer.out_channels, layer.groups, labels,
                     output)  # fmt: skip


def convolved(
    book: Book,
    name: str,
    inputs: int,
    outputs: int,
    groups: int,
    labels: Tensor,
    output: Tensor,
    dim: int = 1,
) -> Tensor:
    """A convolution's channels: read, made, and of a grouped one tied group by group."""
    book.read(name, labels, dim, inputs)
    made = book.atoms.of(name, "out", outputs)
    if groups > 1:
        read = book.atoms.of(name, "in", inputs).view(groups, -1)
        mine = made.view(groups, -1)
        book.atoms.tie(read, read[:, :1])
        book.atoms.tie(mine, read[:, :1])
    return along(made, dim, output.shape)


def _alike_in_groups(
    book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor
) -> Tensor:
    """Every group loses the same ones of its inputs, and the same ones of its outputs."""
    assert isinstance(layer, GroupedConv)
    book.read(name, labels, 1, layer.in_channels)
    made = book.atoms.of(name, "out", layer.out_channels)
    for atoms in (book.atoms.of(name, "in", layer.in_channels), made):
        by_group = atoms.view(layer.groups, -1)
        book.atoms.tie(by_group, by_group[:1])
    return along(made, 1, output.shape)


def _moved_groups(
    book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor
) -> Tensor:
    """Every group of channels, which has to stay as large as the others, at several places."""
    assert isinstance(layer, MovedGroups)
    each = labels[:1, :, :1, :1]
    by_group = each.reshape(layer.groups, -1)
    book.atoms.tie(by_group, by_group[:1])
    return each.repeat(1, layer.places, 1, 1).expand(output.shape)


def _subpel(book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    assert isinstance(layer, SubpelConv)
    return convolved(book, name, layer.inner.in_channels, layer.outputs, layer.inner.groups,
                     labels, output)  # fmt: skip


def _linear(book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return convolved(book, name, layer.in_features, layer.out_features, 1, labels, output,
                     output.dim() - 1)  # fmt: skip


def _one_by_one(book: Book, name: str, _: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    size = output.shape[1]
    atoms = book.atoms.of(name, "norm", size)
    book.atoms.tie(labels, along(atoms, 1, labels.shape))
    return along(atoms, 1, output.shape)


def _group_norm(book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    assert isinstance(layer, nn.GroupNorm)
    made = _one_by_one(book, name, layer, labels, output)
    if layer.num_groups == 1 < layer.num_channels:
        book.hold(
            made,
            f"normalised by {name}, a GroupNorm of one group, whose mean and variance are over all "
            "channels (a BatchNorm could lose some, or a GroupNorm of several groups whole ones)",
        )
    by_group = book.atoms.of(name, "norm", layer.num_channels).view(layer.num_groups, -1)
    book.atoms.tie(by_group, by_group[:, :1])
    return made


def _layer_norm(book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    book.hold(
        labels,
        f"normalised by {name}, a {type(layer).__name__}, whose mean and variance are over all "
        "channels: without some of them the others would change",
    )
    return labels


def closed(book: Book, name: str, layer: nn.Module, labels: Tensor, output: Tensor) -> Tensor:
    """A layer of torch's own that is not taken apart, such as MultiheadAttention."""
    kind = type(layer).__name__
    book.hold(labels, closed_to(name, layer))
    made = book.atoms.of(name, "out", output.shape[-1])
    made = along(made, output.dim() - 1, output.shape)
    book.hold(made, f"made by a {kind}, which is not taken apart")
    return made


def closed_to(name: str, layer: nn.Module) -> str:
    return f"read by {name}, a {type(layer).__name__}, which is not taken apart"


def own_values(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A layer's own parameters, and numbers beside them that its file holds, by their keys.

    Others cannot be rebuilt from a file, and large ones are no entries of channels.
    """
    yield from layer.named_parameters(recurse=False)
    for key, value in layer.named_buffers(recurse=False):
        kept = key not in layer._non_persistent_buffers_set
        if kept and value.is_floating_point() and value.numel() <= LARGEST_BUFFER:
            yield key, value


LARGEST_BUFFER = 2**16


def is_reparametrised(layer: nn.Module) -> bool:
    """Whether its weight is computed of other parameters, as by weight or spectral norm."""
    return parametrize.is_parametrized(layer)


def owner_of(weight: Tensor, owners: dict[int, str]) -> str | None:
    """The layer whose parameters, and no other's, `weight` is computed from."""
    found: set[str] = set()
    seen: set[object] = set()
    stack = [weight.grad_fn]
    if id(weight) in owners:
        return owners[id(weight)]
    while stack and len(seen) < 1000:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.Tensor):
            found.add(owners.get(id(leaf), ""))
        stack += [following for following, _ in node.next_functions]
    return next(iter(found)) if len(found) == 1 else None


OLD_HOOKS = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}


def refuse_old_hooks(codec: nn.Module) -> None:
    """UserError where a weight is made by a hook of the old kind, which no copy survives."""
    for name, layer in codec.named_modules():
        for hook in layer._forward_pre_hooks.values():
            if kind := OLD_HOOKS.get(type(hook).__name__):
                raise UserError(
                    f"{name}: torch.nn.utils.{kind} makes its weight by a hook, and such a layer "
                    f"cannot be copied; fold it by torch.nn.utils.remove_{kind}, or use "
                    f"torch.nn.utils.parametrizations.{kind}"
                )


def shared_weights(codec: nn.Module) -> dict[str, str]:
    """Layers by name whose parameters another layer has too, with the name of that one."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, layer in codec.named_modules():
        for parameter in layer.parameters(recurse=False):
            other = first.setdefault(id(parameter), name)
            if other != name:
                shared |= {name: other, other: name}
    return shared
