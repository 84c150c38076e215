"""What benchmarks/speed.py measures: pairs of decoders, ways of running them, and the cases."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vcodecs
from lvc.bundle import BundleNetworks
from lvc.container import Reader
from lvc.decode import open_bundle
from lvc.player import Player
from lvc.runtimes import Setting, has_openvino, openvino_precisions
from prune.data import open_source
from prune.data.procedural import render
from prune.groups.find import find_groups
from prune.groups.shrink import shrunk_copy
from prune.measure.latency import Decoder, interleaved, spread, torch_threads
from prune.measure.macs import decoder_macs
from prune.measure.torch_ways import way_of
from prune.onnx_export.bundle import Size, export_bundle
from prune.onnx_export.calibration import recorded_inputs
from prune.onnx_export.int8 import quantisers, write_int8
from prune.recipe.schema import MeasureSection, PruneSection
from prune.sparsify.budget import cost_of
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import by_magnitude
from vcodecs.coding import can_code

MACS_AT = 1088, 1920


@dataclass
class Pair:
    """A dense codec and a pruned one with their bundles, made once and kept in `folder`."""

    codec: str
    preset: str
    folder: Path
    cut: float
    align: int
    run: Path | None

    @property
    def name(self):
        how = f"run {self.run.name}" if self.run else f"one-shot {self.cut:.0%}, by {self.align}"
        return f"{self.codec} {self.preset}, {how}"

    @property
    def quality(self):
        """What is lost, of a trained codec; a time without it is of widths alone."""
        if self.run is None:
            return "none: cut in one shot"
        report = json.loads((self.run / "report.json").read_text())
        point = report["quality"][0]["points"][0]
        lost = point["dense"]["psnr"] - point["sparse"]["psnr"]
        more = point["sparse"]["bpp"] - point["dense"]["bpp"]
        return f"{-lost:+.2f} dB, {more:+.3f} bpp on {report['quality'][0]['dataset']}"

    @cached_property
    def dense(self):
        torch.manual_seed(0)
        if self.run:
            path = self.run / "teacher" / "weights.safetensors"
            return vcodecs.create(self.codec, self.preset, path).eval()
        return vcodecs.create(self.codec, self.preset).eval()

    @cached_property
    def channels(self):
        return find_groups(self.dense)

    @cached_property
    def pruned(self):
        if self.run:
            path = self.run / "finetune" / "weights.safetensors"
            return vcodecs.create(self.codec, self.preset, path).eval()
        return self.cut_to(CostModel(self.dense, self.channels, *MACS_AT), 1 - self.cut)

    def cut_to(self, cost, budget):
        settings = PruneSection(budget=budget, align=self.align)
        kept = by_magnitude(self.dense, self.channels, cost, settings)
        return shrunk_copy(self.dense, kept, self.channels).eval()

    def bundle(self, which, codec):
        """The folder of a codec's bundle, made now where it has not been."""
        place = self.folder / self.name.replace(" ", "_").replace(",", "") / which
        if not (place / "bundle.json").exists():
            export_bundle(codec, place, Size(256, 448))
        return place

    def bundles(self):
        return self.bundle("dense", self.dense), self.bundle("pruned", self.pruned)

    def eight_bits(self):
        """Bundles whose layers have 8 bits, all of them that can."""
        made = []
        for codec, place in zip((self.dense, self.pruned), self.bundles(), strict=True):
            if not (place / "int8" / "bundle.json").exists():
                clip = open_source("procedural").read(0, 0, 2)[..., :128, :128]
                inputs = recorded_inputs(codec, BundleNetworks(place), [clip], codec.rates()[:1])
                write_int8(place, place / "int8", quantisers(place, inputs))
                torch.set_flush_denormal(False)
            made.append(place / "int8")
        return tuple(made)

    def prepare(self):
        self.bundles()
        if can_code(self.dense):
            self.eight_bits()


# ---------------------------------------------------------------------- ways


def settings_of():
    """Ways of this machine's processor by name."""
    ways = {"onnxruntime-fp32": Setting(), "onnxruntime-int8": Setting("onnxruntime", "int8")}
    if has_openvino():
        precisions = (*openvino_precisions(), "int8")
        ways |= {f"openvino-{p}": Setting("openvino", p) for p in precisions}
    for mode in ("eager", "channels-last", "compiled"):
        ways |= {f"torch-{mode}-{p}": way_of(f"{mode} {p}".removesuffix(" fp32"))
                 for p in ("fp32", "bf16")}  # fmt: skip
    return ways


def gpu_ways():
    """Ways of the GPU by name."""
    ways = {f"torch-{mode}-{p}": way_of(f"cuda {mode} {p}".removesuffix(" fp32"))
            for mode in ("eager", "graphs") for p in ("fp32", "fp16")}  # fmt: skip
    for name in ("CUDA", "Tensorrt"):
        ways[f"onnxruntime-{name.lower()}"] = Setting(provider=f"{name}ExecutionProvider")
    return ways


def way_case(pair, name, how, size, given):
    """Eager torch, and dense and pruned this way, round by round."""
    dense, pruned = pair.eight_bits() if name.endswith("int8") else pair.bundles()
    eager = way_of("cuda eager" if given.gpu else "eager")
    with torch_threads(given.threads):
        decoders = [
            Decoder(eager, given.threads, pair.dense, dense, *size),
            Decoder(how, given.threads, pair.dense, dense, *size),
            Decoder(how, given.threads, pair.pruned, pruned, *size),
        ]
        times = [np.array(t).sum(1) * 1000 for t in interleaved(decoders, given.rounds)]
    macs = [decoder_macs(codec, *MACS_AT).total for codec in (pair.dense, pair.pruned)]
    quality = pair.quality
    if name.endswith("int8") and pair.run:
        quality = f"of float32: {quality}; of 8 bits not measured"
    return {
        "version": how.version,
        "precision": how.precision,
        "rounds": given.rounds,
        "eager_ms": rounded(spread(times[0])),
        "dense_ms": rounded(spread(times[1])),
        "pruned_ms": rounded(spread(times[2])),
        "speedup": rounded(spread(times[1] / times[2])),
        "against_eager": rounded(spread(times[0] / times[2])),
        "macs": macs[1] / macs[0],
        "quality": quality,
    }


def rounded(spread_of):
    return {key: round(value, 4) for key, value in spread_of.items()}


# ---------------------------------------------------------------------- budgets in time


def budget_case(pair, runtime, size, given, share=0.35):
    """Chosen by time at `share` of it, and by time at the MACs that the other choice has."""
    measure = MeasureSection(latency_height=size[0], latency_width=size[1], threads=given.threads)
    section = PruneSection(budget={"latency": share, "runtime": runtime}, align=given.align)
    cost = cost_of(section.budget, pair.dense, pair.channels, measure)
    kept = by_magnitude(pair.dense, pair.channels, cost, section)
    counts = torch.tensor([len(kept[group.name]) for group in pair.channels.groups])
    by_time = shrunk_copy(pair.dense, kept, pair.channels).eval()
    equal, equal_share = at_equal_macs(pair, cost, section)
    how = Setting(runtime)
    with tempfile.TemporaryDirectory() as place:
        codecs = {"dense": pair.dense, "macs": pair.pruned, "time": by_time, "equal": equal}
        folders = {"dense": pair.bundles()[0], "macs": pair.bundles()[1]}
        for name in ("time", "equal"):
            folders[name] = Path(place) / name
            export_bundle(codecs[name], folders[name], Size(256, 448))
        decoders = [Decoder(how, given.threads, codecs[n], folders[n], *size) for n in codecs]
        times = [np.array(t).sum(1) * 1000 for t in interleaved(decoders, given.rounds)]
    dense, macs, timed, same = times
    return {
        "version": how.version,
        "rounds": given.rounds,
        "budget": share,
        "predicted": round(float(cost.fraction(counts)), 4),
        "measured": rounded(spread(timed / dense)),
        "dense_ms": {
            "predicted": round(float(cost.total(cost.sizes)), 2),
            "measured": round(float(np.median(dense)), 2),
        },
        "sparse_ms": {
            "predicted": round(float(cost.total(counts)), 2),
            "measured": round(float(np.median(timed)), 2),
        },
        "equal_macs": rounded(spread(macs / same)),
        "equal_macs_share": round(equal_share, 4),
        "quality": pair.quality,
    }


def at_equal_macs(pair, cost, section):
    """The choice by time whose MACs are nearest to those of the choice by MACs, and its part."""
    dense = decoder_macs(pair.dense, *MACS_AT).total
    wanted = decoder_macs(pair.pruned, *MACS_AT).total / dense
    low, high, best, distance = 0.1, 1.0, None, 1.0
    for _ in range(8):
        share = (low + high) / 2
        budget = section.budget.model_copy(update={"latency": share})
        try:
            kept = by_magnitude(pair.dense, pair.channels, cost,
                                section.model_copy(update={"budget": budget}))  # fmt: skip
        except vcodecs.UserError:
            low = share  # less than there has to be
            continue
        codec = shrunk_copy(pair.dense, kept, pair.channels).eval()
        found = decoder_macs(codec, *MACS_AT).total / dense
        if abs(found - wanted) < distance:
            best, distance = (codec, found), abs(found - wanted)
        low, high = (share, high) if found < wanted else (low, share)
    return best


# ---------------------------------------------------------------------- a real file, on a GPU


def decoding_case(pair, size, frames=8):
    """Frames a second of a file of synthetic pictures, from bits to pictures, by onnxruntime.

    Coded by torch on the processor, which takes the longest part of this.
    """
    rates, setting = {}, Setting(provider="CUDAExecutionProvider")
    with tempfile.TemporaryDirectory() as place:
        for name, bundle in zip(("dense", "pruned"), pair.bundles(), strict=True):
            coded = encoded(getattr(pair, name), Path(place), name, size, frames)
            with Reader(coded) as reader:
                player = Player(reader, *open_bundle(bundle, reader.header, setting))
                pictures = player.pictures()
                next(pictures), next(pictures)  # kernels are chosen in these
                start = time.perf_counter()
                shown = sum(1 for _ in pictures)
                rates[name] = round(shown / (time.perf_counter() - start), 3)
    return {"frames": frames, "frames_a_second": rates, "quality": pair.quality}


def encoded(codec, place, name, size, frames):
    """A file of `frames` synthetic pictures."""
    weights, pictures, target = place / f"{name}.safetensors", place / "clip", place / f"{name}.lvc"
    vcodecs.save(codec, weights)
    pictures.mkdir(exist_ok=True)
    for number, picture in enumerate(render(0, 0, *size, frames)):
        Image.fromarray(picture.transpose(1, 2, 0)).save(pictures / f"{number:04d}.png")
    command = [sys.executable, "-m", "vcodecs", "encode", pictures, target, "--weights", weights]
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return target
