"""Cost of a decoder as a function of how many channels each group keeps: here its MACs.

`prune.sparsify.time_cost` has the same interface for milliseconds. Sparsifier, final choice and
plan know no more of a cost than this: `total` and `fraction` of counts, and what moves change.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from prune.groups.channels import Channels
from prune.groups.shrink import shrunk_copy
from prune.groups.weights import Weighted, convolution
from prune.measure.deformable import fetching_share
from prune.measure.macs import decoder_macs
from vcodecs import VideoCodec
from vcodecs.deform import DeformableConv
from vcodecs.layers import CompressAIGDN, SubpelConv
from vcodecs.parts import module_of


class CostModel:
    """A layer costs its dense MACs times the kept part of its inputs times that of its outputs.

    What a deformable convolution's fetching costs goes by its inputs alone. Exact for all of
    these, transposed ones and GDN; differentiable in the counts.
    """

    of = "MACs"

    def __init__(self, codec: VideoCodec, channels: Channels, height: int, width: int) -> None:
        dense = decoder_macs(codec, height, width)
        self.layers = tuple(name for name, macs in dense.by_layer.items() if macs)
        self.macs = torch.tensor([dense.by_layer[n] for n in self.layers], dtype=torch.float64)
        self.sizes = torch.tensor([g.size for g in channels.groups], dtype=torch.float64)
        shape = len(self.layers), len(channels.groups)
        self.inputs = torch.zeros(shape, dtype=torch.float64)
        self.outputs = torch.zeros(shape, dtype=torch.float64)
        row = {name: i for i, name in enumerate(self.layers)}
        for g, group in enumerate(channels.groups):
            for member in group.members:
                if member.layer not in row or not _has_widths(codec, member.layer):
                    continue
                ins, outs = _widths(codec, member.layer)
                count = sum(len(indices) for indices in member.channels) / group.size
                if member.side in ("in", "norm"):
                    self.inputs[row[member.layer], g] += count / ins
                if member.side in ("out", "norm"):
                    self.outputs[row[member.layer], g] += count / outs
        self._add_products(codec, channels, (height, width))
        # What no group covers stays: symbols, pictures, motion vectors.
        self.fixed_inputs = 1 - self.inputs @ self.sizes
        self.fixed_outputs = 1 - self.outputs @ self.sizes
        shares = [_fetching(codec, name) for name in self.layers]
        self.fetching = torch.tensor(shares, dtype=torch.float64)

    def _add_products(self, codec: VideoCodec, channels: Channels, size: tuple[int, int]) -> None:
        """What is no layer's, as the products of an attention, falls with each group evenly: by how
        much is counted on a decoder that lacks one unit of it."""
        rows = [i for i, name in enumerate(self.layers) if not _has_widths(codec, name)]
        if not rows:
            return
        for g, group in enumerate(channels.groups):
            kept = {group.name: list(range(1, group.size))}
            less = decoder_macs(shrunk_copy(codec, kept, channels), *size).by_layer
            for row in rows:
                gone = self.macs[row] - less.get(self.layers[row], 0)
                self.inputs[row, g] = gone / self.macs[row]

    def price(self, ins: Tensor, outs: Tensor, rows: Tensor | None = None) -> Tensor:
        """Cost of each layer with these parts (..., L) of its inputs and outputs.

        `rows` (R,): of these layers alone, `ins` and `outs` are then (..., R).
        """
        macs, fetching = (x if rows is None else x[rows] for x in (self.macs, self.fetching))
        return macs * ins * (fetching + (1 - fetching) * outs)

    def prices(self, counts: Tensor) -> Tensor:
        """Cost of each layer with `counts` (..., G) channels kept: (..., L)."""
        return self.price(*self._parts(counts.double()))

    def total(self, counts: Tensor, modules: Iterable[str] | None = None) -> Tensor:
        """The cost with `counts` (..., G) channels kept, of all decoder modules or of these."""
        costs = self.prices(counts)
        return (costs if modules is None else costs[..., self._rows(modules)]).sum(-1)

    def after_moves(self, counts: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Fractions after each of `moves` (M, G), what it adds to `counts`: (M,), and after any two
        of them: (M, M).

        Only layers that both moves touch have to be priced for a pair.
        """
        ins, outs = self._parts(counts.double())
        more_ins, more_outs = moves.double() @ self.inputs.T, moves.double() @ self.outputs.T
        here = self.price(ins, outs)
        change = self.price(ins + more_ins, outs + more_outs) - here
        touched = (more_ins != 0) | (more_outs != 0)
        i, j, row = (touched[:, None] & touched[None]).nonzero(as_tuple=True)
        both = self.price(
            ins[row] + more_ins[i, row] + more_ins[j, row],
            outs[row] + more_outs[i, row] + more_outs[j, row],
            row,
        )
        own = change.sum(1)
        pairs = own[:, None] + own
        pairs.index_put_((i, j), both - here[row] - change[i, row] - change[j, row], True)
        dense, now = self.total(self.sizes), here.sum()
        return (now + own) / dense, (now + pairs) / dense

    def fraction(self, counts: Tensor, modules: Iterable[str] | None = None) -> Tensor:
        """`total` over that of the dense decoder."""
        return self.total(counts, modules) / self.total(self.sizes, modules)

    def least(self, modules: Iterable[str] | None = None, floor: Sequence[int] = ()) -> float:
        """The smallest fraction that is possible with `floor` (G,) channels a group."""
        return float(self.fraction(torch.tensor(floor, dtype=torch.float64), modules))

    def _parts(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of each layer's inputs and outputs that counts (..., G) leave: (..., L)."""
        ins = self.fixed_inputs + counts @ self.inputs.T
        return ins, self.fixed_outputs + counts @ self.outputs.T

    def _rows(self, modules: Iterable[str]) -> Tensor:
        wanted = tuple(modules)
        return torch.tensor([module_of(name, wanted) is not None for name in self.layers])


def _fetching(codec: VideoCodec, name: str) -> float:
    """The part of a layer's cost that does not depend on its outputs."""
    layer = codec.get_submodule(name)
    return fetching_share(layer.out_channels) if isinstance(layer, DeformableConv) else 0.0


def _has_widths(codec: VideoCodec, name: str) -> bool:
    """Whether this is a layer, whose cost is a product of its inputs and outputs."""
    layer = codec.get_submodule(name)
    return isinstance(layer, CompressAIGDN | SubpelConv | Weighted)


def _widths(codec: VideoCodec, name: str) -> tuple[int, int]:
    """Input and output channels of a layer as the groups count them."""
    layer = codec.get_submodule(name)
    if isinstance(layer, CompressAIGDN):
        return layer.beta.numel(), layer.beta.numel()
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    conv = convolution(codec, name)
    shrink = layer.factor**2 if isinstance(layer, SubpelConv) else 1
    return conv.in_channels, conv.out_channels // shrink
