"""Real bits with torch: frames to payloads and back, by a codec's own `coding`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from lvc.coder import SymbolWriter
from lvc.errors import UserError
from lvc.frame import HYPER_STRIDE, LATENT_STRIDE
from lvc.indices import MARGIN
from lvc.levels import level_of
from lvc.program import CodedTensors, Levels, Tensors, code_frame
from lvc.rates import rate_factor
from lvc.tables import PRECISION, SMALLEST_SCALE, Table
from vcodecs.contract import DecoderGraph, VideoCodec, WaveGraph
from vcodecs.hyper import cdf, hyper_tables


class TorchNetworks:
    """A codec's graphs and tables (`lvc.program.Networks`), run by torch where its weights are."""

    def __init__(self, codec: VideoCodec, margin: float = MARGIN, level: int | None = None) -> None:
        self.codec, self.margin, self.level = codec.eval(), margin, level
        self._levels: dict[int, TorchNetworks] = {}
        self.multiple = codec.multiple
        if codec.levels > 1:
            return
        self.coding = codec.coding()
        self.steps = self.coding.steps
        graphs = codec.decoder_graphs(self.multiple, self.multiple)
        every: list[DecoderGraph | WaveGraph] = [*graphs, *self.coding.waves]
        self._graphs = {graph.name: graph for graph in every}
        self._shapes = {name: spec for graph in graphs for name, spec in graph.inputs.items()}
        self._tables = {name: hyper_tables(prior) for name, prior in self.coding.priors.items()}

    def at(self, rate: float | None) -> "TorchNetworks":
        """The networks of one level, for a codec that has several."""
        if self.codec.levels == 1:
            return self
        level = level_of(rate, self.codec.levels)
        if level not in self._levels:
            self._levels[level] = TorchNetworks(self.codec.at_level(level), self.margin, level)
        return self._levels[level]

    @cached_property
    def identity(self) -> str:
        """See `identity`; made when first asked for."""
        return identity(self.codec)

    @property
    def device(self) -> torch.device:
        return next(self.codec.parameters()).device

    @torch.no_grad()
    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        found = self._graphs[graph]
        given = [self.tensor(inputs[name]) for name in found.inputs]
        made = found.function(self.codec, *given)
        made = (made,) if isinstance(made, Tensor) else made
        arrays = (value.float().cpu().numpy() for value in made)
        return dict(zip(found.outputs, arrays, strict=True))

    def channels(self, name: str) -> int:
        return self._shapes[name].channels

    def stride(self, name: str) -> int:
        usual = HYPER_STRIDE if name.endswith("_hyper") else LATENT_STRIDE
        return self._shapes[name].stride if name in self._shapes else usual

    def hyper_tables(self, stream: str) -> Sequence[Table]:
        return self._tables[stream]

    @torch.no_grad()
    def quantiser(self, stream: str, rate: float | None) -> np.ndarray:
        basic, scales = self.coding.quantisers[stream]
        return basic.float().cpu().numpy() * rate_factor(scales.float().cpu().numpy(), rate)

    @torch.no_grad()
    def factor(self, name: str, rate: float | None) -> np.ndarray:
        points = self.coding.factors[name].float().cpu().numpy()
        return rate_factor(points, rate).reshape(1, 1, 1, 1)

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    @torch.no_grad()
    def analyse(
        self, frame: Tensor, rate: float | None, stream: str, tensors: Tensors
    ) -> tuple[np.ndarray, np.ndarray]:
        """The encoder's latent and hyper latent of a stream."""
        given = _OnDevice(self, tensors)
        made = self.coding.analyse(stream, frame, given, rate)
        latent, hyper = (value.float().cpu().numpy() for value in made)
        if not (np.isfinite(latent).all() and np.isfinite(hyper).all()):
            raise UserError(
                f"the codec's {stream} latent has values that are not finite numbers: "
                "its weights are damaged or its training diverged"
            )
        return latent, hyper


class _OnDevice(Mapping):
    """Arrays as tensors, when they are looked at."""

    def __init__(self, networks: TorchNetworks, arrays: Tensors) -> None:
        self._networks, self._arrays = networks, arrays

    def __getitem__(self, name: str) -> Tensor:
        return self._networks.tensor(self._arrays[name])

    def get(self, name: str, default: Tensor | None = None) -> Tensor | None:  # type: ignore[override]
        # The base class would wait for a KeyError, which `lvc.program` has better words for.
        return self[name] if name in self._arrays else default

    def __iter__(self):
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


@dataclass(frozen=True)
class Compressed:
    """A coded frame: its payload, and all that `code_frame` says of it."""

    payload: bytes
    coded: CodedTensors
    networks: TorchNetworks = field(repr=False)

    @property
    def following(self) -> Tensors:
        """The tensors that the next frame starts from."""
        return self.coded.following

    @property
    def symbols(self) -> dict[str, np.ndarray]:
        """Whole numbers by name."""
        return self.coded.symbols

    @cached_property
    def estimate(self) -> float:
        """The bits that the distributions promise: no rounding of tables, no marks, no headers."""
        return _estimate(self.networks, self.coded)


def compress(
    networks: TorchNetworks,
    frame: Tensor,
    before: Tensors,
    rate: float | None = None,
    receiver: Levels | None = None,
) -> Compressed:
    """Code one frame (1, 3, H, W), padded as its codec wants it; `before` as in `code_frame`.

    `receiver` runs what the receiver runs (such as a bundle of the same weights), else `networks`.

    This is the consistent path: symbols are what is rounded for the picture, charged as they are
    coded. The official estimates differ (`VideoCodec.code`): DCVC's charges a rounding around the
    mean and shows a plain one, FVC's saturates at 50 bits.
    """
    writer, networks = SymbolWriter(), networks.at(rate)
    receiver = networks if receiver is None else receiver.at(rate)
    frame = frame.to(networks.device)

    def analysis(stream: str, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
        return networks.analyse(frame, rate, stream, tensors)

    size = (frame.shape[2], frame.shape[3])
    coded = code_frame(receiver, writer, before, size, rate, analysis)
    return Compressed(writer.finish(), coded, networks)


@torch.no_grad()
def _estimate(networks: TorchNetworks, coded: CodedTensors) -> float:
    """Bits of a frame's symbols by its distributions as they were predicted, in float64."""
    bits = 0.0
    for stream, prior in networks.coding.priors.items():
        symbols = coded.symbols[f"{stream}_hyper"]
        symbols = symbols.reshape(symbols.shape[1], -1)
        likelihood = cdf(prior, symbols + 0.5) - cdf(prior, symbols - 0.5)
        bits += _information(torch.from_numpy(likelihood), torch.from_numpy(np.abs(symbols)))
    for part in (part for parts in coded.predicted.values() for part in parts):
        distance = torch.from_numpy(part.symbols - part.mean.astype(np.float64)).abs()
        scale = torch.from_numpy(part.scale).double().clamp(min=SMALLEST_SCALE)
        kind = Laplace if part.distribution == "laplace" else Normal
        below = kind(torch.zeros_like(scale), scale, validate_args=False).cdf
        # The lower tail keeps its digits where the upper one has none left.
        bits += _information(below(0.5 - distance) - below(-0.5 - distance), distance)
    return bits


def _information(likelihood: Tensor, distance: Tensor) -> float:
    """Bits of symbols so likely and so far from what was expected.

    What is too unlikely for a table (some likelihoods are none in float64) escapes, which costs
    the escape's 24 bits and the number itself (docs/bitstream.md, section 6.3).
    """
    number = 5 + torch.floor(torch.log2(2 * distance.round() + 1))
    return float(torch.minimum(-torch.log2(likelihood), PRECISION + number).sum())


def can_code(codec: nn.Module) -> bool:
    """Whether the codec says how its frames become bits."""
    return getattr(type(codec), "coding", VideoCodec.coding) is not VideoCodec.coding


@torch.no_grad()
def entropy_of(codec: VideoCodec) -> dict:
    """Everything but the graphs that a decoder needs, as JSON can hold it."""
    if codec.levels > 1:
        return {"levels": [entropy_of(codec.at_level(i)) for i in range(codec.levels)]}
    coding = codec.coding()
    tables = {stream: hyper_tables(prior) for stream, prior in coding.priors.items()}
    factors = {name: _listed(points) for name, points in coding.factors.items()}
    return {
        "hyper": {
            stream: [{"first": t.first, "frequencies": t.frequencies.tolist()} for t in own]
            for stream, own in tables.items()
        },
        "quantisers": {
            stream: {"basic": _listed(basic), "points": _listed(points)}
            for stream, (basic, points) in coding.quantisers.items()
        },
        # Left out where there are none: bundles of other codecs stay what they were.
        **({"factors": factors} if factors else {}),
    }


def identity(codec: VideoCodec) -> str:
    """Hexadecimal SHA-256 of what a decoder depends on: the weights, and the tables of them."""
    digest = hashlib.sha256()
    for name, value in sorted(codec.state_dict().items()):
        array = value.detach().float().cpu().contiguous().numpy()
        digest.update(f"{name} {array.shape}\n".encode() + array.tobytes())
    digest.update(json.dumps(entropy_of(codec)).encode())
    return digest.hexdigest()


def _listed(values: Tensor) -> list[float]:
    return values.detach().float().flatten().tolist()
