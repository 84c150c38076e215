"""Ways of choosing and recovering channels, against each other at equal steps and equal data.

    python benchmarks/methods.py --train CLIPS --eval CLIPS --json benchmarks/results/methods.json
    python benchmarks/methods.py ... --weights dcvc_small,fvc_small --seeds 0,1,2 --steps 400
    python benchmarks/methods.py ... --rows gradient-decay,one-shot --distill local,none

Every row takes a trained codec to the same part of its decoder's MACs with the same number of
training steps on the same clips in the same order, and is then coded on the same evaluation clips:
real bits, one I frame a clip. Rows that train masks have `--sparse` of the steps for them and
fine-tune in the rest; one-shot ones fine-tune in all. `narrow` is the control: a codec that has
equally many channels less in every group and begins with fresh weights, trained for all the steps.
What is compared is J = lambda * MSE + bpp of the P frames, in decibels behind the dense codec at
its bits, beside both of its parts. What has been done is kept in the file and skipped.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev

import torch

import vcodecs
from lvc.files import atomic_write
from prune.data import open_source
from prune.evaluation.rate_distortion import evaluate
from prune.groups.find import find_groups
from prune.groups.shrink import masked_copy, shrunk_copy
from prune.measure.latency import cpu_name
from prune.pipeline.compress import train_shrunk, train_sparse
from prune.pipeline.importance import losses_of, telling_stage
from prune.recipe.schema import DistillSection, PruneSection
from prune.sparsify.cost import CostModel
from prune.sparsify.selection import by_losses, by_magnitude, choose
from prune.training.phases import Phase
from prune.training.settings import TrainerSettings
from prune.training.tradeoff import Tradeoff
from prune.training.trainer import Trainer
from vcodecs.intra import create_intra

TRAINED = ("gradient-decay", "straight-through", "mask-decay")
ROWS = (
    *(f"{method}, {scores}" for method in (*TRAINED, "one-shot") for scores in ("loss", "norm")),
    "narrow",
)
LAMBDAS = {"dcvc_small": 2048.0, "fvc_small": 2048.0, "dcvc_base": 1024.0, "fvc_base": 1024.0}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, help="training clips")
    parser.add_argument("--eval", required=True, help="clips that nothing trains on")
    parser.add_argument("--weights", default="dcvc_small,fvc_small", help="bundled codecs")
    parser.add_argument("--rows", default=";".join(ROWS), help="parted by ;")
    parser.add_argument("--distill", default="local", help="local, network, none, local-uniform")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sparse", type=float, default=0.6)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate, at its peak")
    parser.add_argument("--budget", type=float, default=0.35)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--clips", type=int)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


class Subject:
    """One dense codec with what every row of it shares."""

    def __init__(self, weights, arguments):
        name, preset = weights.rsplit("_", 1)
        self.weights, self.arguments = weights, arguments
        self.dense = vcodecs.create(name, preset, weights).eval()
        self.channels = find_groups(self.dense)
        self.cost = CostModel(self.dense, self.channels, 256, 448)
        self.stage = telling_stage(self.dense)
        self.tradeoff = Tradeoff((None,), (LAMBDAS[weights],))
        self.sources = [(open_source(arguments.train), 1.0)]

    def section(self, row):
        method, _, scores = row.partition(", ")
        return PruneSection(method=method, scores=scores, budget=self.arguments.budget)

    def settings(self, seed):
        return TrainerSettings(self.tradeoff, seed=seed, intra_noise=0.02, workers=0, device="cpu")

    def train(self, codec, companions, steps, seed, title):
        if not steps:
            return codec, []
        a = self.arguments
        phase = Phase("joint", self.stage, steps, a.rate, a.batch, a.crop)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                codec, [phase], self.sources, self.settings(seed), Path(folder), companions, title
            )
            trainer.run()
        return trainer.codec, []


def compressed(subject, row, distillation, seed):
    """The codec that a row ends with."""
    a = subject.arguments
    if row == "narrow":
        return narrow(subject, seed)
    section = subject.section(row)
    source, _, uniform = distillation.partition("-")
    distill = DistillSection(source=source, adaptive=not uniform)
    losses = None
    if section.scores == "loss":
        losses = losses_of(
            subject.dense, subject.channels, section, subject.sources, a.batch, a.crop,
            subject.settings(seed),
        )  # fmt: skip
        subject.dense.cpu()
    if section.method == "one-shot":
        steps = 0
        if losses is None:
            kept = by_magnitude(subject.dense, subject.channels, subject.cost, section)
        else:
            kept = by_losses(subject.channels, subject.cost, section, losses)
        masked = masked_copy(subject.dense, subject.channels, kept)
    else:
        steps = round(a.steps * a.sparse)
        masked, kept, _ = train_sparse(
            subject.dense, subject.channels, subject.cost, section, distill, steps, "cpu",
            lambda codec, along: subject.train(codec, along, steps, seed, "sparse"),
            losses=losses,
        )  # fmt: skip
    shrunk = shrunk_copy(masked, kept, subject.channels)
    tuned, _ = train_shrunk(
        shrunk, subject.dense, subject.channels, kept, distill, "cpu",
        lambda codec, along: subject.train(codec, along, a.steps - steps, seed, "finetune"),
    )  # fmt: skip
    return tuned


def narrow(subject, seed):
    """As many MACs with equally narrow layers and fresh weights."""
    section = PruneSection(budget=subject.arguments.budget)
    groups = subject.channels.groups
    equal = [torch.arange(group.size, 0, -1) / group.size for group in groups]
    kept = choose(groups, equal, subject.cost, section.budget, section.align, section.floor)
    codec = shrunk_copy(subject.dense, kept, subject.channels)
    torch.manual_seed(seed)
    for module in codec.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    codec, _ = subject.train(codec, [], subject.arguments.steps, seed, "narrow")
    return codec.cpu()


def quality(codec, subject):
    """P frames' decibels, bits and J on the evaluation clips."""
    a = subject.arguments
    found = evaluate(
        {"codec": codec}, open_source(a.eval), create_intra("hevc:qp=22"), (None,), a.frames,
        a.frames, clips=a.clips, pictures=0,
    )  # fmt: skip
    results = [point.results["codec"] for point in found.points]
    (lagrangian,) = subject.tradeoff.lagrangians
    rows = [(one.p_psnr, one.p_bpp) for one in results]
    cost = fmean(lagrangian * 10 ** (-psnr / 10) + bpp for psnr, bpp in rows)
    psnr, bpp = (fmean(values) for values in zip(*rows, strict=True))
    return {"psnr": psnr, "bpp": bpp, "J": cost}


def behind(entry, dense, lagrangian):
    """Decibels behind the dense codec if all of J's rise were distortion."""
    distortion = lagrangian * 10 ** (-dense["psnr"] / 10)
    return 10 * math.log10(1 + (entry["J"] - dense["J"]) / distortion)


def table(results):
    lines = ["| codec | row | distillation | seeds | dB behind dense | PSNR | bpp |"]
    lines.append("|---|---|---|---|---|---|---|")
    for key in sorted({tuple(k.split("|")[:3]) for k in results["rows"]}):
        found = [v for k, v in results["rows"].items() if tuple(k.split("|")[:3]) == key]
        losses = [one["behind"] for one in found]
        spread = f" ± {stdev(losses):.2f}" if len(losses) > 1 else ""
        lines.append(
            f"| {' | '.join(key)} | {len(found)} | {fmean(losses):.2f}{spread} "
            f"| {fmean(v['psnr'] for v in found):.2f} | {fmean(v['bpp'] for v in found):.4f} |"
        )
    return "\n".join(lines)


def main():
    arguments = parse()
    path = arguments.json
    setting = {k: v for k, v in vars(arguments).items() if k not in ("json", "rows", "seeds")}
    known = {k: str(v) for k, v in setting.items() if k not in ("weights", "distill")}
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}, "dense": {}}
    if results.setdefault("setting", known) != known:
        raise SystemExit(f"{path}: holds results of other settings: {results['setting']}")
    results["cpu"] = cpu_name()

    def save():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(results, indent=1) + "\n")

    for weights in arguments.weights.split(","):
        subject = Subject(weights, arguments)
        if weights not in results["dense"]:
            results["dense"][weights] = quality(subject.dense, subject)
            save()
        for seed in map(int, arguments.seeds.split(",")):
            for row in arguments.rows.split(";"):
                for distillation in arguments.distill.split(","):
                    distillation = "none" if row == "narrow" else distillation
                    key = f"{weights}|{row}|{distillation}|{seed}"
                    if key in results["rows"]:
                        continue
                    begun = time.monotonic()
                    entry = quality(compressed(subject, row, distillation, seed), subject)
                    dense = results["dense"][weights]
                    entry["behind"] = behind(entry, dense, subject.tradeoff.lagrangians[0])
                    entry["seconds"] = time.monotonic() - begun
                    results["rows"][key] = entry
                    save()
                    print(key, {k: round(v, 4) for k, v in entry.items()}, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
