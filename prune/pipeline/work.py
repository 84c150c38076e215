"""The work of each step: what it reads, what it leaves in its folder."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, set_flush_denormal

from lvc.decode import INT8_FOLDER, INTRA_FOLDER
from lvc.runtimes import Runtime, Setting, has_openvino, openvino_precisions
from prune.data.source import ClipError, Source
from prune.evaluation.anchors import anchor_points
from prune.evaluation.rate_distortion import Evaluation, evaluate
from prune.evaluation.spread import Spread
from prune.groups.shrink import masked_copy
from prune.measure.latency import How, compare_latency, providers
from prune.measure.onnx_macs import bundle_macs
from prune.measure.torch_ways import way_of
from prune.onnx_export.bit_parity import check_bundle
from prune.onnx_export.bundle import Size, export_bundle
from prune.pipeline.compress import shrink_proved, train_shrunk, train_sparse
from prune.pipeline.importance import losses_of
from prune.pipeline.int8 import add_int8, int8_networks
from prune.pipeline.job import Job
from prune.pipeline.steps import read_json, write_json
from prune.pipeline.training import phases_of
from prune.progress import console
from prune.recipe.schema import TrainSection
from prune.sparsify.time_cost import TimeCost
from prune.training.companion import Companion
from prune.training.settings import device_of
from prune.training.trainer import Trainer
from vcodecs import UserError, VideoCodec, checkpoints
from vcodecs.deform import Operator, has_deformable
from vcodecs.intra import NetworkIntra

WEIGHTS = "weights.safetensors"


def save_teacher(job: Job, folder: Path) -> None:
    """The dense codec, whatever it came from, in one format."""
    checkpoints.save(job.teacher, folder / WEIGHTS)


def sparsify(job: Job, folder: Path) -> None:
    """Sparse training; leaves the masked codec and the channels to keep."""
    recipe = job.recipe
    curves: list[dict] = []
    losses = _losses(job, folder) if recipe.prune.scores == "loss" else None
    if recipe.prune.method == "one-shot":
        kept = job.one_shot(losses)
        masked = masked_copy(job.teacher, job.channels, kept)
    else:
        masked, kept, curves = train_sparse(
            job.teacher,
            job.channels,
            job.cost,
            recipe.prune,
            recipe.distill,
            sum(phase.steps for phase in recipe.train.phases),
            _device(job),
            lambda codec, along: _train(job, codec, "train", recipe.train, along, folder),
            job.larger_teacher,
            losses,
        )
    if not job.processes.first:
        return
    write_json(folder / "kept.json", kept)
    write_json(folder / "curves.json", curves)
    if isinstance(job.cost, TimeCost):
        job.cost.times.save(folder / "layer_times.json")
    checkpoints.save(masked, folder / WEIGHTS)


def _losses(job: Job, folder: Path) -> list[Tensor]:
    """What is lost with each channel, measured by the first process and kept in the folder."""
    found: list[list[float]] = []
    if job.processes.first:
        path, data = folder / "channel_losses.json", job.recipe.data
        if path.exists():
            found = read_json(path)
        else:
            console.print("  what the loss loses with each channel")
            settings, section = job.settings("train"), job.recipe.prune
            losses = losses_of(
                job.teacher,
                job.channels,
                section,
                job.train_sources,
                data.batch,
                data.crop,
                settings,
            )
            job.teacher.cpu()
            found = [one.tolist() for one in losses]
            write_json(path, found)
    return [torch.tensor(one, dtype=torch.float64) for one in job.processes.agreed(found)]


def shrink(job: Job, sparse: Path, folder: Path) -> None:
    """Remove the channels, and prove on random pictures and a real clip that nothing changed."""
    kept = read_json(sparse / "kept.json")
    masked = job.load(sparse / WEIGHTS)
    shrunk, worst = shrink_proved(masked, job.channels, kept, real_clip(job), job.recipe.seed)
    checkpoints.save(shrunk, folder / WEIGHTS, kept)
    write_json(folder / "parity.json", {"masked_vs_shrunk": worst})


def real_clip(job: Job) -> Tensor:
    """Up to three frames of the first evaluation clip of two or more, at most 256x256 pixels."""
    for source in job.eval_sources:
        for index in range(min(len(source), 16)):
            count = min(3, source.info(index).frames)
            if count < 2:
                continue
            with suppress(ClipError):
                frames = source.read(index, 0, count)
                return torch.from_numpy(frames[..., :256, :256].copy()).float() / 255
    return torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def finetune(job: Job, sparse: Path, shrunk: Path, folder: Path) -> None:
    """Train the shrunk codec with the same losses."""
    recipe = job.recipe
    kept = read_json(sparse / "kept.json")
    codec, curves = train_shrunk(
        job.load(shrunk / WEIGHTS),
        job.teacher,
        job.channels,
        kept,
        recipe.distill,
        _device(job),
        lambda codec, along: _train(job, codec, "finetune", recipe.finetune, along, folder),
        job.larger_teacher,
    )
    if not job.processes.first:
        return
    checkpoints.save(codec, folder / WEIGHTS, kept)
    write_json(folder / "curves.json", curves)


def measure_quality(job: Job, final: Path, folder: Path) -> None:
    """Dense against sparse on the evaluation clips."""
    section, processes = job.recipe.evaluate, job.processes
    entries: list[dict] = []
    notes: list[str] = []
    share = Spread(processes.rank, processes.count, processes.gathered)
    for number, source in enumerate(job.eval_sources):
        result = _evaluated(
            job, final, source, device=_device(job), bits=section.bits, spread=share,
            pictures=section.pictures if number == 0 else 0,
        )  # fmt: skip
        entry = result.quality_entry(source.name)
        if section.anchors:
            console.print(f"  {', '.join(section.anchors)} on {source.name}")
            entry["anchors"] = anchor_points(
                source, section.anchors, section.frames, section.gop, section.clips
            )
        entries.append(entry)
        notes += result.warnings
        if result.bits != section.bits:
            notes.append(
                f"evaluation of {source.name}: codec {job.teacher.name} has no `coding`, "
                "so the bits of its P frames are estimates"
            )
        if number == 0 and processes.first:
            _save_pictures(result, folder / "pictures.npz")
    job.teacher.cpu()
    if processes.first:
        write_json(folder / "quality.json", {"entries": entries, "warnings": notes})


def measure_int8(job: Job, final: Path, bundle: Path, folder: Path) -> None:
    """The pruned codec with graphs of 8 bits against the dense one, as `measure_quality`."""
    entries = []
    for source in job.eval_sources:
        receivers = {"sparse": int8_networks(bundle)}
        result = _evaluated(job, final, source, pictures=0, receivers=receivers)
        set_flush_denormal(False)
        entries.append(result.quality_entry(f"{source.name}, graphs of 8 bits"))
    write_json(folder / "quality.json", {"entries": entries})


def _evaluated(job: Job, final: Path, source: Source, **how: Any) -> Evaluation:
    """Dense against sparse on the clips of a source; `how`: arguments of `evaluate`."""
    section = job.recipe.evaluate
    return evaluate(
        {"dense": job.teacher, "sparse": job.load(final / WEIGHTS)},
        source,
        job.intra,
        job.teacher.rates(),
        section.frames,
        section.gop,
        clips=section.clips,
        progress=lambda done, total, text: console.print(f"  {done}/{total} {text}"),
        **how,
    )


def export_pruned(job: Job, codec: VideoCodec, folder: Path) -> None:
    """`export`, and graphs of 8 bits where the recipe asks for them."""
    export(job, codec, folder)
    if job.recipe.export.precision == "int8":
        chosen = add_int8(codec, folder, [source for source, _ in job.train_sources], job.intra)
        console.print(
            f"  8 bits: {chosen.layers} layers, {len(chosen.kept)} stay float; "
            f"{-chosen.loss_db:+.2f} dB and {chosen.bits_percent:+.1f} % bits on training clips"
        )


def export(job: Job, codec: VideoCodec, folder: Path) -> None:
    """`export_checked` at the recipe's size, on a real clip."""
    section = job.recipe.export
    size = Size(section.height, section.width, section.dynamic)
    worst, frames = export_checked(job, codec, folder, size, real_clip(job))
    write_json(folder / "parity.json", {"torch_vs_onnx": worst, "decoded_frames": frames})


def export_checked(
    job: Job, codec: VideoCodec, folder: Path, size: Size, clip: Tensor
) -> tuple[float, int]:
    """One ONNX bundle, checked against torch: in every output, and by decoding what torch codes.

    A codec with deformable convolutions gets a second one inside it, which computes them by the
    operator that the recipe does not name: both are timed. Learned I frames have their own in
    `intra`, where a player looks for it. Returns the largest difference, and how many frames of
    `clip` (T, 3, H, W) were decoded.
    """
    worst, frames = [], 0
    for operator, place in _bundles(job, codec, folder).items():
        worst.append(export_bundle(codec, place, size, operator))
        frames += check_bundle(codec, place, clip)
    if isinstance(job.intra, NetworkIntra):
        network, place = job.intra.network.cpu(), folder / INTRA_FOLDER
        worst.append(export_bundle(network, place, size))
        frames += check_bundle(network, place, clip)
    return max(worst), frames


def _bundles(job: Job, codec: VideoCodec, folder: Path) -> dict[Operator, Path]:
    """Folders of bundles by the operator of deformable convolutions, the recipe's own first."""
    chosen = job.recipe.export.deformable
    others = [name for name in get_args(Operator) if name != chosen]
    return {chosen: folder, **{n: folder / n.lower() for n in others if has_deformable(codec)}}


def measure_speed(job: Job, final: Path, bundles: dict[str, Path], folder: Path) -> None:
    """Latency of both bundles, and the MACs that their graphs hold."""
    section, size = job.recipe.measure, job.recipe.export
    codecs = {"dense": job.teacher, "sparse": job.load(final / WEIGHTS)}
    height = section.latency_height if size.dynamic else size.height
    width = section.latency_width if size.dynamic else size.width
    places = {name: _bundles(job, codec, bundles[name]) for name, codec in codecs.items()}

    def compare(operator: Operator, how: How, note: str = "") -> dict[str, Any]:
        dense, sparse = ((codec, places[name][operator]) for name, codec in codecs.items())
        return compare_latency(
            dense, sparse, height, width, section.runs, section.threads, note, how
        )

    several = len(places["dense"]) > 1
    rows = [
        compare(operator, Setting(provider=provider), operator if several else "")
        for operator in places["dense"]
        for provider in providers()
    ]
    if size.precision == "int8":
        rows += _eight_bits(lambda place, how: compare_latency(
            (job.teacher, bundles["dense"]), (codecs["sparse"], place), height, width,
            section.runs, section.threads, "graphs of 8 bits", how,
        ), bundles["sparse"])  # fmt: skip
    chosen = job.recipe.export.deformable
    rows += _other_runtimes(section.torch, lambda how: compare(chosen, how))
    counted = {}
    for name, codec in codecs.items():
        graphs = codec.steady_graphs(section.height, section.width)
        shapes = {k: list(v) for graph in graphs for k, v in graph.input_shapes().items()}
        # Sampling for a deformable convolution looks like a warp, which is not counted.
        place = places[name].get("DeformConv", bundles[name])
        counted[name] = bundle_macs(place, [graph.name for graph in graphs], shapes)
    write_json(folder / "speed.json", {"latency": rows, "onnx_macs": counted})


def _eight_bits(compare: Callable[[Path, How], dict[str, Any]], bundle: Path) -> list[dict]:
    """The dense decoder in float32 against the pruned one in 8 bits, on each runtime."""
    runtimes: list[Runtime] = ["onnxruntime", "openvino"] if has_openvino() else ["onnxruntime"]
    return [compare(bundle / INT8_FOLDER, Setting(name, "int8")) for name in runtimes]


def _other_runtimes(ways: Sequence[str], compare: Callable[[How], dict[str, Any]]) -> list[dict]:
    """OpenVINO where it is installed and knows all operators, and torch in these ways.

    What this machine cannot do is told and left out.
    """
    precisions = openvino_precisions() if has_openvino() else ()
    settings: list[How] = [Setting("openvino", precision) for precision in precisions]
    rows = []
    for how in (*settings, *map(way_of, ways)):
        try:
            rows.append(compare(how))
        except (RuntimeError, UserError) as error:  # all that OpenVINO and torch raise
            said = next(iter(str(error).splitlines()), "")
            console.print(f"{how.version} {how.precision} is left out: {said}")
    return rows


# ---------------------------------------------------------------------- shared


def _train(
    job: Job,
    codec: VideoCodec,
    key: str,
    section: TrainSection,
    companions: Sequence[Companion],
    folder: Path,
) -> tuple[VideoCodec, list[dict]]:
    recipe = job.recipe
    trainer = Trainer(
        codec,
        phases_of(recipe, section, codec, key),
        job.train_sources,
        job.settings(key),
        folder,
        companions,
        title=key,
    )
    curves = [curve.as_dict() for curve in trainer.run()]
    return trainer.codec, curves


def _save_pictures(result: Evaluation, path: Path) -> None:
    from lvc.files import replacing

    arrays: dict[str, np.ndarray] = {}
    for i, picture in enumerate(result.pictures):
        arrays |= {
            f"{i}.original": picture.original,
            f"{i}.dense": picture.decoded["dense"],
            f"{i}.sparse": picture.decoded["sparse"],
            f"{i}.clip": np.array(picture.clip),
            f"{i}.frame": np.array(picture.frame),
        }
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _device(job: Job) -> str:
    return device_of(job.recipe.train.device)
