"""Prunes the bundled small DCVC, step by step: `python examples/prune_in_python.py OUT`.

A few steps on synthetic clips: enough to see every step work, far too few for a codec that decodes
well. recipes/dcvc.yaml says how many that takes.
"""

import argparse
from pathlib import Path

import prune
import vcodecs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where weights and bundle go")
    parser.add_argument("--steps", type=int, default=20, help="of sparse training, and after it")
    parser.add_argument("--budget", type=float, default=0.35, help="part of the MACs that stays")
    parser.add_argument("--one-shot", action="store_true", help="by magnitude, without training")
    parser.add_argument("--runs", type=int, default=0, help="timed runs on onnxruntime")
    given = parser.parse_args()
    method = "one-shot" if given.one_shot else "gradient-decay"
    # --8<-- [start:steps]
    codec = vcodecs.create("dcvc", checkpoint="dcvc_small").eval()
    plan = prune.plan(codec, given.budget, method=method)
    training = {"steps": given.steps, "lagrangian": 2048, "batch": 1}
    sparse = prune.sparsify(codec, plan, "procedural", **training)
    small = prune.shrink(sparse)
    if not given.one_shot:
        small = prune.finetune(small, sparse, "procedural", **training)
    given.folder.mkdir(parents=True, exist_ok=True)
    vcodecs.save(small, given.folder / "weights.safetensors")
    prune.export(small, given.folder / "onnx")
    clips = [prune.clip(number, frames=3) for number in range(2)]
    print(prune.compare(codec, small, clips, frames=3, runs=given.runs))
    # --8<-- [end:steps]


if __name__ == "__main__":
    main()
