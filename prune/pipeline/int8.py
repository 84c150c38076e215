"""The step that gives a pruned codec's bundle graphs of 8 bits, and measures what they cost."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import set_flush_denormal

from lvc.bundle import BundleNetworks
from lvc.decode import INT8_FOLDER
from lvc.errors import UserError
from lvc.levels import LEVELS
from lvc.runtimes import Setting
from prune.data.source import ClipError, Source
from prune.evaluation.metrics import mean
from prune.evaluation.rate_distortion import evaluate_clip
from prune.onnx_export.calibration import recorded_inputs
from prune.onnx_export.int8 import Layer, quantisers, sensitivities, write_int8
from prune.pipeline.steps import write_json
from vcodecs import VideoCodec
from vcodecs.coding import can_code
from vcodecs.intra import IntraCodec

CLIPS, FRAMES, SIDE = 4, 4, 256
"""Training clips: half of them calibrate, with the others layers are chosen."""
LOSS = 0.1
"""Most that P frames of those others may lose, in dB; layers stay float until they do not."""
FILE = "int8.json"


@dataclass(frozen=True)
class Chosen:
    """The number of layers with 8 bits, those that stay float, and the cost on training clips."""

    layers: int
    kept: list[Layer]
    loss_db: float
    bits_percent: float


def add_int8(
    codec: VideoCodec, bundle: Path, sources: Sequence[Source], intra: IntraCodec
) -> Chosen:
    """Write the bundle of 8 bits into `bundle`, and beside it what was chosen.

    The layers that make the largest error by themselves stay float, twice as many each time, until
    clips that did not calibrate lose at most LOSS. UserError where nothing can have 8 bits.
    """
    if not can_code(codec) or (bundle / LEVELS).exists():
        raise UserError(
            f"export.precision int8: {codec.name} has no real bits, or several levels: set fp32"
        )
    clips = list(_clips(sources))
    seen, unseen = clips[::2], clips[1::2] or clips
    inputs = recorded_inputs(codec, BundleNetworks(bundle), seen, codec.rates())
    ready = quantisers(bundle, inputs)
    order = list(sensitivities(ready, inputs))
    if not order:
        raise UserError("export.precision int8: no graph has a layer that can have 8 bits")
    plain = _quality(codec, unseen, intra, None)
    folder, count = bundle / INT8_FOLDER, 0
    while True:
        write_int8(bundle, folder, ready, order[:count])
        found = _quality(codec, unseen, intra, int8_networks(bundle))
        set_flush_denormal(False)
        loss = plain[0] - found[0]
        if loss <= LOSS:
            break
        count = 2 * count or 1
        if count >= len(order):
            raise UserError(f"export.precision int8: every layer costs more than {LOSS} dB here")
    chosen = Chosen(len(order) - count, order[:count], loss, 100 * (found[1] / plain[1] - 1))
    write_json(folder / FILE, asdict(chosen))
    return chosen


def int8_networks(bundle: Path, threads: int = 0) -> BundleNetworks:
    """The bundle of 8 bits in `bundle`, as files are made for it."""
    setting = Setting("onnxruntime", "int8", threads)
    return BundleNetworks(bundle / INT8_FOLDER, setting=setting, bound=True)


def _clips(sources: Sequence[Source]) -> Iterable[np.ndarray]:
    """A few frames of some clips, uint8 RGB (T, 3, H, W), from all over the sources."""
    found = 0
    for source in sources:
        for index in np.linspace(0, max(0, len(source) - 1), CLIPS).astype(int):
            try:
                if source.info(int(index)).frames < FRAMES:
                    continue
                yield source.read(int(index), 0, FRAMES)[..., :SIDE, :SIDE]
            except ClipError:
                continue
            found += 1
            if found == CLIPS:
                return
    if not found:
        raise UserError(f"export.precision int8: no training clip has {FRAMES} frames")


def _quality(
    codec: VideoCodec,
    clips: Sequence[np.ndarray],
    intra: IntraCodec,
    receiver: BundleNetworks | None,
) -> tuple[float, float]:
    """PSNR in dB and bits a pixel of P frames, averaged over clips and rates, by real bits."""
    results = [
        evaluate_clip(codec, clip, intra, rate, FRAMES, receiver=receiver)
        for clip in clips
        for rate in codec.rates()
    ]
    return mean(r.p_psnr for r in results), mean(r.p_bpp for r in results)
