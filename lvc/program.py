"""The receiver's program: from symbols to a frame, in steps over named tensors.

A codec states it once, as steps; the encoder and every decoder, with torch or with onnxruntime,
run the same one. `tensors` holds float32 arrays (1, C, h, w) by the names of the decoder graphs'
inputs and outputs. The encoder runs along as a receiver that is told its symbols.

Names follow the stream ("motion", "latent"): STREAM_hyper is its hyper latent, STREAM_mean and
STREAM_scale what is expected of it, and the latent itself is called STREAM_latent, or just
"latent" for the stream of that name.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .coder import PayloadError, SymbolReader
from .frame import LEVEL, POSITION, Analysis, Frame, Levels, Networks, Predicted, Tensors
from .indices import Coder
from .kinds import kept_by, kind_of, takes_turns
from .steps import Step, latent_of

__all__ = [
    "Analysis",
    "CodedTensors",
    "Levels",
    "Networks",
    "Predicted",
    "Step",
    "Tensors",
    "code_frame",
    "decompress",
    "digest",
    "latent_of",
]


@dataclass(frozen=True)
class CodedTensors:
    """A coded frame: the tensors that the next one starts from, the symbols by name, and for each
    latent what they were coded by (for estimates; nothing that a decoder needs)."""

    following: Tensors
    symbols: dict[str, np.ndarray]
    predicted: dict[str, list[Predicted]]


def code_frame(
    networks: Levels,
    coder: Coder,
    before: Tensors,
    size: tuple[int, int],
    rate: float | None = None,
    analysis: Analysis | None = None,
) -> CodedTensors:
    """Code one frame.

    `before`: those of the frame before ({} for a codec of I frames, {"reference": picture} behind
    an I frame). `size`: height and width, padded. `analysis`: only where `coder` writes.
    A frame at another level than the one before starts from that one's picture alone.
    """
    chosen = networks.at(rate)
    if chosen.level is not None and before.get(LEVEL, chosen.level) != chosen.level:
        before = {"reference": before["reference"]}
    frame = Frame(chosen, coder, before, size, rate, analysis)
    for step in chosen.steps:
        kind_of(step).carry_out(frame)
    return CodedTensors(_following(frame, chosen.steps), frame.symbols, frame.predicted)


def _following(frame: Frame, steps: Sequence[Step]) -> Tensors:
    kept = {"reference": frame.tensors["frame"]}
    for name in kept_by(steps):
        if name in frame.tensors:
            kept[f"previous_{name}"] = frame.tensors[name]
    if frame.networks.level is not None:
        kept[LEVEL] = np.array(frame.networks.level)
    if takes_turns(steps):
        kept[POSITION] = np.array(frame.position)
    return kept


def decompress(
    networks: Levels,
    payload: bytes,
    before: Tensors,
    size: tuple[int, int],
    rate: float | None = None,
) -> CodedTensors:
    """The frame that a payload holds, as `code_frame`; PayloadError where it is damaged."""
    reader = SymbolReader(payload)
    coded = code_frame(networks, reader, before, size, rate)
    reader.finish()
    if not np.isfinite(coded.following["reference"]).all():
        raise PayloadError("it decodes to a picture with values that are no numbers")
    return coded


def digest(symbols: Mapping[str, np.ndarray]) -> int:
    """64 bits of whole numbers, the same wherever they were decoded."""
    state = hashlib.blake2b(digest_size=8)
    for name in sorted(symbols):
        state.update(name.encode() + symbols[name].astype("<i4").tobytes())
    return int.from_bytes(state.digest(), "little")
