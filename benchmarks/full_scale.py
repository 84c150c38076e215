"""What the recipes of recipes/paper take at full scale, counted on shapes alone.

    python benchmarks/full_scale.py
    python benchmarks/full_scale.py --peak 989 --share 0.3 --json costs.json

Floating-point operations of every phase's step are those of a forward and a backward pass at the
phase's crop and frames, by torch's own counter on meta tensors: products and sums of convolutions
and matrices, two for each multiply-accumulate. The distillation's teacher runs forward along
(`local`: the receiver's part), and so does a network that codes I frames. GPU-days are what that
takes at `--share` of a peak of `--peak` TFLOP/s; they say nothing of kernels that wait for memory
or for their start.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import vcodecs
from prune.measure.deformable import FORMULAS
from prune.measure.macs import decoder_macs, encoder_macs, parameters
from prune.recipe.reading import load_recipe
from prune.recipe.schema import Recipe
from prune.training.loss import rate_distortion
from prune.training.trainer import select_modules

PAPER = Path(__file__).resolve().parents[1] / "recipes" / "paper"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s in bfloat16")
    parser.add_argument("--share", type=float, default=0.3, help="of it that a training reaches")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def step_flops(codec, stage, crop, training=True):
    """Operations of one clip's forward (and backward) pass through a stage."""
    shadow = codec.to("meta").train()
    select_modules(shadow, stage.modules)
    clip = torch.empty(1, stage.frames + 1, 3, crop, crop, device="meta")
    rate = None if shadow.rates()[0] is None else torch.empty(1, device="meta")
    lagrangian = torch.empty(1, device="meta")
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with counter, torch.set_grad_enabled(training):
        outcome = rate_distortion(shadow, clip, stage, lagrangian, 0.0, rate)
        if training:
            outcome.loss.backward()
    return counter.get_total_flops()


def phases(recipe, section):
    codec = vcodecs.create(recipe.codec.name, recipe.codec.preset)
    stages = {stage.name: stage for stage in codec.stages()}
    for spec in section.phases:
        stage = stages[spec.stage]
        yield spec, replace(stage, frames=spec.frames) if spec.frames else stage


def cost(recipe):
    """Operations by phase, and what one process sends in a step."""
    name, preset = recipe.codec.name, recipe.codec.preset
    codec = vcodecs.create(name, preset)
    rows = []
    for key, section in (("train", recipe.train), ("finetune", recipe.finetune)):
        for spec, stage in phases(recipe, section):
            crop, batch = spec.crop or recipe.data.crop, spec.batch or recipe.data.batch
            own = step_flops(vcodecs.create(name, preset), stage, crop)
            teacher = 2 * decoder_macs(codec, crop, crop).total
            if recipe.distill.source == "network":
                teacher += 2 * encoder_macs(codec, crop, crop).total
            teacher *= stage.frames if recipe.distill.source != "none" else 0
            rows.append(
                {
                    "phase": f"{key}: {spec.stage}",
                    "steps": spec.steps,
                    "clips": batch,
                    "frames": stage.frames,
                    "crop": crop,
                    "tflop_step": batch * (own + teacher) / 1e12,
                    "of_it_teacher": teacher / (own + teacher),
                }
            )
    return {"codec": name, "parameters": parameters(codec), "phases": rows}


def main():
    arguments, console = parse(), Console()
    found = []
    for path in sorted(PAPER.glob("*.yaml")):
        one = cost(load_recipe(path, [], Recipe))
        table = Table(title=f"{one['codec']}: {one['parameters'] / 1e6:.1f} M parameters")
        for title in ("phase", "steps", "frames", "TFLOP a step", "teacher", "EFLOP", "GPU-days"):
            table.add_column(title, justify="left" if title == "phase" else "right")
        total = 0.0
        for row in one["phases"]:
            row["eflop"] = row["tflop_step"] * row["steps"] / 1e6
            row["gpu_days"] = row["eflop"] * 1e6 / (arguments.peak * arguments.share) / 86400
            total += row["gpu_days"]
            table.add_row(
                row["phase"], f"{row['steps']:,}", f"{row['frames']}", f"{row['tflop_step']:.2f}",
                f"{row['of_it_teacher']:.0%}", f"{row['eflop']:.2f}", f"{row['gpu_days']:.2f}",
            )  # fmt: skip
        table.add_row("all", "", "", "", "", "", f"{total:.2f}")
        console.print(table)
        found.append(one)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
