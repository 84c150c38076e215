"""The contract between codecs and everything that works on them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lvc.errors import UserError, printable
from lvc.pictures import SIZE_MULTIPLE, round_up
from lvc.program import Step
from vcodecs.entropy import BitEstimator
from vcodecs.finite import check_finite
from vcodecs.parts import module_of


@dataclass(frozen=True)
class Reference:
    """State that a decoder keeps between frames; fields that a codec does not use stay None.

    `frame` is the decoded picture (N, 3, H, W), RGB in [0, 1]; the others are the codec's own.
    `state`: more of them, by names that the codec gives them. `position`: P frames since the I
    frame. `Reference(frame=x)` starts a P frame after an I frame.
    """

    frame: Tensor
    feature: Tensor | None = None
    latent: Tensor | None = None
    motion_latent: Tensor | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    position: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that there are, by the names of fields and of `state`."""
        own = {name: getattr(self, name) for name in REFERENCE_FIELDS}
        return {name: value for name, value in own.items() if value is not None} | dict(self.state)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Reference":
        """A reference at the same position that holds these tensors and no others."""
        own = {name: tensors[name] for name in REFERENCE_FIELDS if name in tensors}
        state = {name: value for name, value in tensors.items() if name not in own}
        return Reference(**own, state=state, position=self.position)

    def detached(self) -> "Reference":
        """The same values, cut from the autograd graph."""
        return self.with_tensors({k: value.detach() for k, value in self.tensors().items()})


REFERENCE_FIELDS = ("frame", "feature", "latent", "motion_latent")
"""Tensors of every codec's `Reference`; others are in its `state`."""


@dataclass(frozen=True)
class CodedFrame:
    """One coded P frame.

    `frame`: (N, 3, H, W), clamped to [0, 1] in eval mode. `bits`: by stream, (N,) tensors in bits.
    `auxiliary`: squared error of intermediate predictions, added to the distortion in training.
    """

    frame: Tensor
    reference: Reference
    bits: dict[str, Tensor]
    auxiliary: Tensor | None = None

    def total_bits(self, streams: tuple[str, ...] | None = None) -> Tensor:
        """Sum over `streams` (all where None), (N,) in bits; zero for an empty tuple."""
        names = tuple(self.bits) if streams is None else streams
        zero = self.frame.new_zeros(self.frame.shape[0], dtype=torch.float32)
        return sum((self.bits[name] for name in names), start=zero)


@dataclass(frozen=True)
class Stage:
    """One training stage: the modules (of `VideoCodec.parts`) it trains and with which loss.

    `modules` are names of direct children, or of parameters that the codec holds itself.
    The loss is lambda * MSE(`picture`, original) + bits per pixel of `streams`. `picture` is
    "frame" or a prediction that `forward` can stop at; `frames` P frames are unrolled.
    """

    name: str
    modules: tuple[str, ...]
    picture: str = "frame"
    streams: tuple[str, ...] | None = None
    frames: int = 1


@dataclass(frozen=True)
class GraphTensor:
    """Shape of a graph's input: `channels` at 1/`stride` of the frame's height and width.

    `stride` divides `multiple`, which frames are padded to multiples of; else UserError.
    With `stride` 0 it is one value for each channel, (1, channels, 1, 1), at any size.
    """

    channels: int
    stride: int
    multiple: int = SIZE_MULTIPLE

    def __post_init__(self) -> None:
        strides = [stride for stride in range(1, self.multiple + 1) if self.multiple % stride == 0]
        if self.stride not in (0, *strides):
            raise UserError(
                f"stride {self.stride}: tensors of decoder graphs have strides of "
                f"{', '.join(map(str, strides))}, since frames are padded to multiples of "
                f"{self.multiple}"
            )

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of this input for frames of that size."""
        return (height // self.stride, width // self.stride) if self.stride else (1, 1)


class DecoderGraph(nn.Module):
    """A pure tensor function of the receiver: the unit of export, counting and timing.

    `function(codec, *inputs)` returns a tensor or a tuple of them, one for each of `outputs`.
    With `after_intra` it takes the place of another graph in the P frame behind an I frame, with
    `in_turn` in some of the P frames; either way it is no part of what every other P frame costs.
    """

    def __init__(
        self,
        name: str,
        codec: "VideoCodec",
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: Mapping[str, GraphTensor],
        outputs: tuple[str, ...],
        size: tuple[int, int],
        after_intra: bool = False,
        in_turn: bool = False,
    ) -> None:
        super().__init__()
        self.after_intra, self.in_turn = after_intra, in_turn
        self.name = name
        self.codec = codec
        self.function = function
        self.inputs = dict(inputs)
        self.outputs = outputs
        self.size = size

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self.codec, *inputs)

    def input_shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """Shapes (1, C, h, w) at this graph's frame size."""
        height, width = self.size
        return {
            name: (1, spec.channels, *spec.sides(height, width))
            for name, spec in self.inputs.items()
        }


Specs = Mapping[str, tuple[int, int]]
"""Channels, and by how much smaller than the frame's the sides are, by tensor."""


def grapher(
    codec: "VideoCodec", height: int, width: int, tensors: Specs | None = None
) -> Callable[..., DecoderGraph]:
    """A maker of the `decoder_graphs` of `codec` for frames of this size, as it pads them.

    It takes name, function, inputs, outputs, `after_intra` and `in_turn`. Inputs are names of
    `tensors`, or (channels, stride) by name.
    """
    size = round_up(height, codec.multiple), round_up(width, codec.multiple)

    def graph(
        name: str,
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: Specs | Sequence[str],
        outputs: tuple[str, ...],
        after_intra: bool = False,
        in_turn: bool = False,
    ) -> DecoderGraph:
        known = inputs if isinstance(inputs, Mapping) else tensors or {}
        try:
            specs = {key: GraphTensor(*known[key], codec.multiple) for key in inputs}
        except UserError as error:
            raise UserError(f"codec {codec.name}: graph {name}: {error}") from error
        return DecoderGraph(name, codec, function, specs, outputs, size, after_intra, in_turn)

    return graph


def positions(tensors: Specs, *names: str) -> dict[str, int]:
    """The inputs of a `WaveGraph`: tensors at single positions, or what lies around (_patch)."""
    return {name: tensors[name.removesuffix("_patch")][0] for name in names}


@dataclass(frozen=True)
class WaveGraph:
    """An auto-regressive model's expectation of single positions, any number of them at once.

    `function(codec, *inputs)` of (n, C, 1, 1), and of what lies around the positions, the input
    whose name ends in "_patch" (n, C, 3, 5): two rows above, and the row of the position itself,
    of which only what is left of the middle may be looked at. `inputs`: channels by name.
    """

    name: str
    function: Callable[..., tuple[Tensor, ...]]
    inputs: Mapping[str, int]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Coding:
    """The way of a codec's frames into bits, and back into pictures.

    `steps`: the receiver's program. `priors`: by stream the distribution of its hyper latent.
    `analyse(stream, frame, tensors, rate)` gives the encoder's latent, in units of its quantiser,
    and its hyper latent. `quantisers`: by stream, channels' factors (1, C, 1, 1) and rate points'
    factors (R, 1, 1, 1); only for codecs of many rates. `factors`: the same for rates that act
    inside the networks: by the name of a graph's input, the rate points' factors (R, 1, 1, 1).
    `waves`: of auto-regressive models.
    """

    steps: tuple[Step, ...]
    priors: Mapping[str, BitEstimator]
    analyse: Callable[[str, Tensor, Mapping[str, Tensor], float | None], tuple[Tensor, Tensor]]
    quantisers: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    waves: tuple[WaveGraph, ...] = ()


class VideoCodec(nn.Module, ABC):
    """Base of all codecs. `name` is the registered name, `preset` one of `presets`."""

    name: ClassVar[str]
    presets: ClassVar[Mapping[str, object]]
    preset: str
    turns: ClassVar[int] = 1
    """After so many P frames the same modules take turns again, where some do."""
    multiple: ClassVar[int] = SIZE_MULTIPLE
    """Frames are padded to multiples of it: what the strides of all its networks make together."""

    levels: int = 1
    """Networks of different size that one set of weights has; its rates are 0 ... `levels` - 1.

    A frame is coded by that of the nearest rate. Behind a frame of another level it starts from
    that one's picture, as behind an I frame.
    """

    def at_level(self, level: int) -> "VideoCodec":
        """A codec of its own, with weights of its own, that codes as this one at that level."""
        raise UserError(f"codec {self.name}: it has one level only")

    def inside(self) -> tuple[str, ...]:
        """Other presets whose weights hold this one's, as a level's are inside those of all."""
        return ()

    def out_of(self, whole: "VideoCodec") -> "VideoCodec":
        """A codec of this preset with its weights out of those of a preset of `inside`."""
        raise UserError(f"codec {self.name} {self.preset}: it is no part of {whole.preset}")

    @abstractmethod
    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        """Code one P frame whose sides are multiples of `multiple` (the estimation path).

        `rate`: None for a codec of one lambda, else a number between the first and the last of
        `rates()`, or a tensor (N,) with one for each frame of the batch.
        `upto` names a prediction: nothing behind it need be computed, and `frame` is then it.
        """

    @abstractmethod
    def decoder_modules(self) -> tuple[str, ...]:
        """Names of the modules that run at the receiver.

        They are direct children; of a child that the receiver runs only in part they are the
        parts that it does run, as dotted names.
        """

    @abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """Training stages, in their order."""

    @abstractmethod
    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        """The receiver, cut at its entropy-decoding points; sides are rounded up."""

    def steady_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        """The graphs of a P frame behind another: what is counted and timed."""
        graphs = self.decoder_graphs(height, width)
        return tuple(graph for graph in graphs if not (graph.after_intra or graph.in_turn))

    @abstractmethod
    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The officially released state dict under this class's names (often the same)."""

    def parts(self) -> tuple[str, ...]:
        """Names of the modules that the codec consists of, each at one side or at both.

        They are its direct children, one that only in part belongs to `decoder_modules` taken
        apart (dotted names).
        """
        inside = self.decoder_modules()
        names: list[str] = []
        pending = [name for name, _ in self.named_children()]
        while pending:
            name = pending.pop(0)
            if name not in inside and any(module_of(part, (name,)) for part in inside):
                children = self.get_submodule(name).named_children()
                pending = [f"{name}.{child}" for child, _ in children] + pending
            else:
                names.append(name)
        return tuple(names)

    def coding(self) -> Coding:
        """The way into real bits. UserError where a codec has only estimates."""
        raise UserError(f"codec {self.name} has no `coding`: its bits can only be estimated")

    def tied_channels(self) -> tuple[tuple[str, str], ...]:
        """Pairs (tensor of `Reference`, producing module) that must lose the same channels."""
        return ()

    def rates(self) -> tuple[float | None, ...]:
        """Rate points to evaluate, rising; (None,) for a codec trained at one lambda.

        A codec of several points serves every rate from the first to the last.
        """
        return (None,)

    def forward(
        self,
        frame: Tensor,
        reference: Reference,
        rate: float | Tensor | None = None,
        upto: str | None = None,
    ) -> CodedFrame:
        """Code one P frame (N, 3, H, W) of any size of at least 16 x 16; `rate` as in `code`.

        In training the rounding is replaced by noise or straight-through; in eval it is real.
        `upto`: stop at this prediction (early training stages need no more).
        """
        height, width = frame.shape[-2:]
        if min(height, width) < 16:
            raise UserError(f"frames of {width}x{height} are too small: 16x16 is the least")
        coded = self.code(pad(frame, multiple=self.multiple), self._padded(reference), rate, upto)
        decoded = coded.frame if self.training else coded.frame.clamp(0, 1)
        return CodedFrame(
            frame=decoded[..., :height, :width],
            reference=coded.reference,
            bits=coded.bits,
            auxiliary=coded.auxiliary,
        )

    def _padded(self, reference: Reference) -> Reference:
        """The reference after an I frame may have the clip's own size; a codec's own is padded."""
        frame = pad(reference.frame, multiple=self.multiple)
        return reference.with_tensors(reference.tensors() | {"frame": frame})

    def load_official(self, state: Mapping[str, Tensor], origin: str = "the checkpoint") -> None:
        """Load the officially released weights strictly.

        A missing or unknown key, a wrong shape and values that are no numbers are a UserError,
        which names `origin`; the weights are then as they were, or in part.
        """
        state = {key.removeprefix("module."): value for key, value in state.items()}
        try:
            state = self.remap_official(state)
            check_finite(self, state, origin)
            self.load_state_dict(state, strict=True)
        except RuntimeError as error:
            # One line a problem; where nothing fits, a line lists every tensor of the network.
            lines = [printable(line) for line in str(error).split("\n")]
            problems = [shorten(line, 150, placeholder=" ...") for line in lines]
            raise UserError(
                f"{origin} does not fit {self.name}, preset {self.preset}: "
                + "; ".join(problems[1:3])
            ) from error


def pad(
    frame: Tensor, mode: Literal["replicate", "constant"] = "replicate", multiple: int = 64
) -> Tensor:
    """Pad (N, C, H, W) at the right and bottom to multiples of `multiple`."""
    height, width = frame.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(frame, (0, right, 0, bottom), mode=mode) if bottom or right else frame
