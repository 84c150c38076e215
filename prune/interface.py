"""Compression from Python, step by step: what `import prune` offers beside the commands.

    codec = vcodecs.create("dcvc_hem", checkpoint="dcvc_hem_small")
    plan = prune.plan(codec, budget=0.35)
    sparse = prune.sparsify(codec, plan, data=clips, steps=2000)
    small = prune.shrink(sparse)
    small = prune.finetune(small, sparse, data=clips, steps=1000)
    prune.export(small, "bundle/")
    print(prune.compare(codec, small, clips))

Every function leaves the codecs it is given as they were, raises UserError for what its caller can
put right, and does what the step of that name does in a run (`prune.run`).
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lvc.errors import UserError
from prune.data import ArrayClips, Procedural, Source, SourceSpec, open_source
from prune.evaluation.coding_loop import Bits
from prune.evaluation.rate_distortion import evaluate
from prune.groups.find import find_groups
from prune.groups.leaves import refuse_old_hooks
from prune.groups.shrink import masked_copy
from prune.measure.latency import compare_latency
from prune.measure.macs import decoder_macs, parameters
from prune.modules import ModuleCodec
from prune.onnx_export.bit_parity import LONGEST, check_bundle
from prune.onnx_export.bundle import Size, export_bundle
from prune.outcomes import Comparison, PruningPlan, Sparse
from prune.pipeline.compress import shrink_proved, sparsifier_of, train_shrunk, train_sparse
from prune.pipeline.importance import losses_of
from prune.pipeline.plan import planned
from prune.pipeline.training import tradeoff
from prune.recipe.schema import DistillSection, MeasureSection, PruneSection, TimeBudget
from prune.sparsify.budget import allowed_share, cost_of
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import by_losses, by_magnitude
from prune.training.companion import Companion
from prune.training.phases import Phase
from prune.training.settings import TrainerSettings, device_of
from prune.training.trainer import Trainer
from vcodecs import Stage, VideoCodec
from vcodecs.finite import check_finite
from vcodecs.intra import create_intra

Data = Source | SourceSpec | str | Path | Sequence[Any]
"""A source, a path, "procedural", or clips (T, 3, H, W) in memory: uint8, or numbers in [0, 1]."""


def plan(
    codec: VideoCodec | nn.Module,
    budget: float | Mapping[str, Any] = 0.35,
    *,
    example: Tensor | Sequence[Tensor] | None = None,
    align: int = 8,
    floor: float = 0.1,
    method: str = "gradient-decay",
    scores: str = "loss",
    size: tuple[int, int] = (1088, 1920),
    latency_size: tuple[int, int] = (256, 448),
    threads: int | None = None,
    show: bool = True,
) -> PruningPlan:
    """Find the channel groups of a codec's decoder, and what `budget` of its MACs would remove.

    Of any other module it is all of it; `example` is then its input, or a sequence of its inputs.
    `budget`: part of the MACs that stays, at frames of `size` (height, width), or a budget in time
    as a recipe's (`{"latency": 0.4, "runtime": "openvino"}`), at `latency_size` with `threads`.
    `align`, `floor`, `method` and `scores` are those of a recipe's `prune` section; what the plan
    shows goes by norms, since the loss takes data. `show`: print it too.
    UserError where no channel can be removed, or no choice meets the budget.
    """
    budget = dict(budget) if isinstance(budget, Mapping) else budget
    given = {"budget": budget, "align": align, "floor": floor, "method": method, "scores": scores}
    settings = _section(PruneSection, **given)
    refuse_old_hooks(codec)
    codec = _as_codec(copy.deepcopy(codec), example).cpu().eval()
    check_finite(codec, codec.state_dict(), f"codec {codec.name}")
    channels = find_groups(codec)
    if not channels.groups:
        raise UserError(f"codec {codec.name}: no channel of its decoder can be removed")
    cost = CostModel(codec, channels, *size)
    if isinstance(settings.budget, TimeBudget):
        if isinstance(codec, ModuleCodec):
            raise UserError("budget: of a module that is no codec it is a number, a part of MACs")
        sides = dict(zip(("latency_height", "latency_width"), latency_size, strict=True))
        measure = _section(MeasureSection, threads=threads, **sides)
        cost = cost_of(settings.budget, codec, channels, measure)
    kept = by_magnitude(codec, channels, cost, settings)
    share = allowed_share(settings.budget, cost)
    summary = planned(codec, channels, kept, share, size, cost)
    module = codec if isinstance(codec, ModuleCodec) else None
    found = PruningPlan(summary, channels, cost, kept, settings, module)
    if show:
        print(found)
    return found


def sparsify(
    codec: VideoCodec,
    plan: PruningPlan,
    data: Data | None = None,
    steps: int = 2000,
    *,
    lagrangian: float | Sequence[float] = 1024.0,
    distill: str = "local",
    folder: str | Path | None = None,
    **training: Any,
) -> Sparse:
    """Train masks under the plan's budget; returns the masked codec and the channels to keep.

    `data`: see `Data`; without any the method one-shot, which trains nothing, goes by norms.
    `lagrangian`: lambda of lambda * MSE + bpp, one for each rate point. `distill`: local, network
    or none. `folder`: of the state, so that the same call goes on after a crash. `training`:
    stage ("joint", else the codec's last), learning_rate, batch, crop, seed, device, workers.
    """
    examples = plan.module.examples() if plan.module else None
    dense = _as_codec(copy.deepcopy(codec), examples).cpu().eval()
    settings, losses = plan.settings, None
    if settings.scores == "loss" and data is not None and not isinstance(dense, ModuleCodec):
        phase, trainer = _training(dense, steps, lagrangian, training)
        sources = [(as_source(data), 1.0)]
        losses = losses_of(
            dense, plan.channels, settings, sources, phase.batch, phase.crop, trainer
        )
        dense = dense.cpu()
    if settings.method == "one-shot":
        kept = by_losses(plan.channels, plan.cost, settings, losses) if losses else plan.kept
        return Sparse(masked_copy(dense, plan.channels, kept), dense, plan, kept)
    if isinstance(dense, ModuleCodec):
        raise UserError("a module that is no codec is trained in its own loop: see prune.Masks")
    section = _section(DistillSection, source=distill)
    masked, kept, curves = train_sparse(
        dense,
        plan.channels,
        plan.cost,
        plan.settings,
        section,
        steps,
        device_of(training.get("device", "auto")),
        lambda codec, along: _train(codec, data, steps, lagrangian, folder, along, training),
        losses=losses,
    )
    return Sparse(masked, dense, plan, kept, curves)


class Masks:
    """Gradient-decay masks on a module in a training loop of its own.

        masks = prune.Masks(module, plan, steps=2000)
        optimizer = torch.optim.Adam([*module.parameters()], lr=1e-4)
        optimizer.add_param_group(masks.parameters())
        for i in range(2000):
            masks.begin_step()
            loss = task(module) + masks.loss()
            ...
            masks.end_step()
        small = prune.shrink(masks.finish())

    The module is trained in place; `plan` is that of `prune.plan(module, example=...)`.
    """

    def __init__(self, module: nn.Module, plan: PruningPlan, steps: int) -> None:
        if not isinstance(module, VideoCodec):
            if plan.module is None:
                raise UserError("plan: is that of a codec; make it by prune.plan(module, example=)")
            examples = [x.to(next(module.parameters()).device) for x in plan.module.examples()]
            module = ModuleCodec(module, examples)
        self._codec, self._plan, self._steps, self._done = module, plan, steps, 0
        self._dense = copy.deepcopy(module).cpu().eval()
        self._sparsifier = sparsifier_of(module, plan.channels, plan.cost, plan.settings, steps)
        modules = tuple(module.decoder_modules())
        self._stage = Stage("all", modules)

    def parameters(self) -> dict[str, Any]:
        """A parameter group for the optimizer: what the masks learn by."""
        (group,) = self._sparsifier.parameter_groups()
        return group

    def begin_step(self) -> None:
        """Before the forward pass: set the gates."""
        self._sparsifier.begin_step(self._stage, min(1.0, self._done / self._steps))

    def loss(self) -> Tensor | float:
        """Penalty of the MACs above the budget; add it to the task's loss."""
        return self._sparsifier.loss()

    def end_step(self) -> None:
        """After the optimizer's step."""
        self._sparsifier.end_step()
        self._done += 1

    @property
    def keep(self) -> float:
        """Part of the MACs that the gates leave now."""
        return self._sparsifier.keep

    def finish(self) -> Sparse:
        """Choose the channels to keep, and take the masks off; the module's weights stay dense."""
        kept = self._sparsifier.choose()
        self._sparsifier.close()
        masked = masked_copy(self._codec, self._plan.channels, kept).cpu()
        return Sparse(masked, self._dense, self._plan, kept)


def shrink(sparse: Sparse) -> VideoCodec | nn.Module:
    """The codec or module without the masked channels, proved equal to the masked one.

    UserError where pictures or bits differ by more than 1e-5, or where it cannot decode what the
    masked codec codes.
    """
    channels, kept = sparse.plan.channels, sparse.kept
    shrunk, _ = shrink_proved(sparse.codec, channels, kept, _moving_clip(), seed=0)
    return shrunk.module if isinstance(shrunk, ModuleCodec) else shrunk


def finetune(
    small: VideoCodec,
    sparse: Sparse,
    data: Data,
    steps: int = 1000,
    *,
    lagrangian: float | Sequence[float] = 1024.0,
    distill: str = "local",
    folder: str | Path | None = None,
    **training: Any,
) -> VideoCodec:
    """Train a shrunk codec with the dense one as its teacher; arguments as of `sparsify`."""
    section = _section(DistillSection, source=distill)
    tuned, _ = train_shrunk(
        copy.deepcopy(small),
        sparse.dense,
        sparse.plan.channels,
        sparse.kept,
        section,
        device_of(training.get("device", "auto")),
        lambda codec, along: _train(codec, data, steps, lagrangian, folder, along, training),
    )
    return tuned


def export(
    codec: VideoCodec, folder: str | Path, size: tuple[int, int] = (256, 448), dynamic: bool = True
) -> Path:
    """Write the decoder as a bundle of ONNX graphs, checked in every output and by decoding.

    `size`: (height, width) of the export; with `dynamic` any multiple of 64 can be decoded.
    UserError where onnxruntime and torch differ; no bundle is left then.
    """
    codec = copy.deepcopy(codec).cpu().eval()
    folder = Path(folder)
    export_bundle(codec, folder, Size(*size, dynamic))
    check_bundle(codec, folder, _moving_clip())
    return folder


def compare(
    dense: VideoCodec,
    sparse: VideoCodec,
    clips: Data | None = None,
    *,
    frames: int = 9,
    intra: str = "hevc:qp=22",
    bits: Bits = "real",
    runs: int = 15,
    size: tuple[int, int] = (1088, 1920),
    latency_size: tuple[int, int] = (256, 448),
) -> Comparison:
    """Measure two codecs: MACs and parameters, paired times of their graphs, quality on `clips`.

    `runs`: timed runs of each on onnxruntime at `latency_size` (0: no times). `clips`: see `Data`;
    None: no quality. The first `frames` frames of each are coded in a coding loop behind an I
    frame by `intra`; `bits` are real or estimated.
    """
    dense, sparse = (copy.deepcopy(codec).cpu().eval() for codec in (dense, sparse))
    quality = None
    if clips is not None:
        source, coder, rates = as_source(clips), create_intra(intra), dense.rates()
        codecs = {"dense": dense, "sparse": sparse}
        found = evaluate(codecs, source, coder, rates, frames, frames, pictures=0, bits=bits)
        quality = found.quality_entry(source.name)
    return Comparison(
        macs=(decoder_macs(dense, *size).total, decoder_macs(sparse, *size).total),
        parameters=(
            parameters(dense, dense.decoder_modules()),
            parameters(sparse, sparse.decoder_modules()),
        ),
        size=size,
        latency=_latency(dense, sparse, runs, latency_size) if runs else None,
        quality=quality,
    )


def clip(number: int = 0, frames: int = 9, height: int = 128, width: int = 192) -> np.ndarray:
    """A synthetic clip, uint8 RGB (frames, 3, height, width): another one for each number."""
    return Procedural(number, 1, height, width, frames).read(0)


def as_source(data: Data) -> Source:
    """Whatever names or holds clips, as a source."""
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path | SourceSpec):
        return open_source(data)
    return ArrayClips(data)


# ---------------------------------------------------------------------- shared


def _as_codec(
    codec: VideoCodec | nn.Module, example: Tensor | Sequence[Tensor] | None
) -> VideoCodec:
    if isinstance(codec, VideoCodec):
        return codec
    if example is None:
        raise UserError(f"{type(codec).__name__}: is no codec: give an `example` of its input")
    return ModuleCodec(codec, example)


def _train(
    codec: VideoCodec,
    data: Data | None,
    steps: int,
    lagrangian: float | Sequence[float],
    folder: str | Path | None,
    companions: Sequence[Companion],
    training: dict[str, Any],
) -> tuple[VideoCodec, list[dict[str, Any]]]:
    if data is None:
        raise UserError("data: training needs clips: a path, a source, or clips in memory")
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return _train(codec, data, steps, lagrangian, temporary, companions, training)
    phase, settings = _training(codec, steps, lagrangian, training)
    torch.manual_seed(settings.seed)
    trainer = Trainer(codec, [phase], [(as_source(data), 1.0)], settings, Path(folder), companions)
    curves = [curve.as_dict() for curve in trainer.run()]
    return trainer.codec, curves


def _training(
    codec: VideoCodec, steps: int, lagrangian: float | Sequence[float], training: dict[str, Any]
) -> tuple[Phase, TrainerSettings]:
    known = {"stage", "learning_rate", "batch", "crop", "seed", "device", "workers"}
    if unknown := training.keys() - known:
        raise UserError(f"{', '.join(sorted(unknown))}: no such argument; there are: "
                        f"{', '.join(sorted(known))}")  # fmt: skip
    stages = {stage.name: stage for stage in codec.stages()}
    name = training.get("stage", "joint" if "joint" in stages else next(reversed(stages)))
    if name not in stages:
        raise UserError(f"stage {name!r}: {codec.name} has {', '.join(stages)}")
    phase = Phase(
        name=name,
        stage=stages[name],
        steps=steps,
        learning_rate=training.get("learning_rate", 1e-4),
        batch=training.get("batch", 4),
        crop=training.get("crop", 128),
    )
    settings = TrainerSettings(
        tradeoff(codec, lagrangian, "lagrangian"),
        seed=training.get("seed", 0),
        device=training.get("device", "auto"),
        workers=training.get("workers", 0),
    )
    return phase, settings


def _latency(
    dense: VideoCodec, sparse: VideoCodec, runs: int, size: tuple[int, int]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        pairs = (dense, Path(temporary) / "dense"), (sparse, Path(temporary) / "sparse")
        for codec, folder in pairs:
            export_bundle(codec, folder, Size(*size, dynamic=False))
        return compare_latency(*pairs, *size, runs)


def _moving_clip() -> Tensor:
    """A synthetic clip (3, 3, 128, 192) in [0, 1]."""
    return torch.from_numpy(clip(frames=LONGEST)).float() / 255


def _section(kind: type, **values: Any) -> Any:
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, f['loc']))}: {f['msg']} (it is {f['input']!r})"
                  for f in error.errors()]  # fmt: skip
        raise UserError("\n".join(faults)) from error
