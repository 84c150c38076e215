"""What a sparse training step costs beside a plain fine-tuning step of the same codec.

    python benchmarks/sparse_step.py
    python benchmarks/sparse_step.py --codecs dcvc,dcvc_hem,fvc --rounds 15 --json FILE
    python benchmarks/sparse_step.py --device cuda --precision bf16 --presets base --crop 256

Steps are those of the trainer (forward, backward, companions, optimizer) on the same clips, in the
codec's joint stage: plain; with masks alone; with masks and distillation from `local` or `network`
targets. Every round takes one step of each, in turn, so that load and clocks hit all alike; ratios
are within rounds, their median and quartiles over rounds. On a CPU the time is that of the
processor for one thread, which other programs on the machine change least; on a GPU it is the
wall's, behind a synchronisation. `--kinds plain,compiled` compares with torch.compile instead.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import quantiles

import torch

import vcodecs
from lvc.files import atomic_write
from prune.data import open_source
from prune.data.training import TrainingClips, as_pixels, batches
from prune.groups.find import find_groups
from prune.measure.latency import cpu_name
from prune.pipeline.distillation import distillers
from prune.recipe.schema import DistillSection, PruneSection
from prune.sparsify.cost import CostModel
from prune.sparsify.sparsifier import Sparsifier
from prune.training.devices import arithmetic, make_accelerator, make_scaler
from prune.training.phases import Phase
from prune.training.settings import TrainerSettings
from prune.training.step import TrainingStep
from prune.training.tradeoff import Tradeoff
from prune.training.trainer import select_modules

KINDS = ("plain", "masks", "local", "network")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codecs", default="dcvc,dcvc_hem,fvc")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Steps:
    """Steps of one kind on a codec of their own."""

    def __init__(self, kind, codec, settings, phase, channels, cost):
        dense = copy.deepcopy(codec)
        self.codec = codec.to(settings.device, memory_format=torch.channels_last)
        self.companions = []
        settings = replace(settings, compile=kind == "compiled")
        if kind in ("masks", "local", "network"):
            section = PruneSection(budget=0.5)
            self.companions.append(Sparsifier(self.codec, channels, cost, section, 1000))
        if kind in ("local", "network"):
            section = DistillSection(source=kind)
            self.companions += distillers(section, self.codec, dense, channels, None)
        select_modules(self.codec, phase.stage.modules)
        self.codec.train()
        accelerator = make_accelerator(settings)
        self.step = TrainingStep(
            self.codec,
            phase,
            settings,
            self.companions,
            accelerator,
            make_scaler(accelerator),
            kind,
        )

    def __call__(self, clips, number):
        torch.manual_seed(number)
        begun = now(clips.device)
        self.step(clips.clone(), 0.3)
        for companion in self.companions:
            companion.end_step()
            companion.figures()
        return now(clips.device) - begun


def now(device):
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def clips_of(phase, count, device):
    dataset = TrainingClips(
        [(open_source("procedural"), 1.0)], phase.stage.frames + 1, phase.crop, 0,
        count * phase.batch,
    )  # fmt: skip
    return [as_pixels(clip.to(device)) for clip in batches(dataset, phase.batch, 0, 0, True)]


def measure(name, arguments):
    torch.manual_seed(0)
    weights = f"{name}_{arguments.preset}" if arguments.preset in ("small", "base") else None
    try:
        codec = vcodecs.create(name, arguments.preset, weights)
    except vcodecs.UserError:
        codec = vcodecs.create(name, arguments.preset)  # no weights of it are bundled
    stages = {stage.name: stage for stage in codec.stages()}
    stage = stages.get("joint") or list(stages.values())[-1]
    phase = Phase("joint", stage, 1000, 1e-4, arguments.batch, arguments.crop)
    points = codec.rates()
    lagrangians = tuple(256.0 * 2**i for i in range(len(points)))
    device = "auto" if arguments.device == "cuda" else "cpu"
    settings = TrainerSettings(
        Tradeoff(points, lagrangians), intra_noise=0.02, precision=arguments.precision,
        device="cpu" if device == "cpu" else "cuda", capture=False,
    )  # fmt: skip
    channels = find_groups(codec)
    cost = CostModel(codec, channels, 256, 448)
    clips = clips_of(phase, 2, torch.device(arguments.device))
    kinds = arguments.kinds.split(",")
    with arithmetic(settings):
        all_steps = {
            kind: Steps(kind, copy.deepcopy(codec), settings, phase, channels, cost)
            for kind in kinds
        }
        seconds = {kind: [] for kind in kinds}
        for number in range(-1, arguments.rounds):
            for kind, steps in all_steps.items():
                taken = steps(clips[number % 2], number + 1)
                if number >= 0:  # the first one warms up
                    seconds[kind].append(taken)
    found = {"codec": name, "preset": arguments.preset, "stage": stage.name}
    found |= {"frames": stage.frames, "plain_s": round(spread(seconds["plain"])[1], 4)}
    for kind in kinds[1:]:
        ratios = [a / b for a, b in zip(seconds[kind], seconds["plain"], strict=True)]
        found[kind] = dict(zip(("q1", "median", "q3"), spread(ratios), strict=True))
    return found


def spread(values):
    """First quartile, median, third quartile."""
    return [round(value, 4) for value in quantiles(values, n=4)]


def study():
    arguments = parse()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    rows = []
    for name in arguments.codecs.split(","):
        rows.append(measure(name, arguments))
        print(json.dumps(rows[-1]), flush=True)
    on = torch.cuda.get_device_name() if arguments.device == "cuda" else cpu_name()
    keys = ("crop", "batch", "rounds", "precision")
    found = {"device": on, "torch": torch.__version__}
    found |= {key: getattr(arguments, key) for key in keys} | {"rows": rows}
    if arguments.json:
        atomic_write(arguments.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    study()
