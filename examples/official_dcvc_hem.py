"""Prunes the officially released DCVC-HEM, in one shot, and exports its decoder.

`python examples/official_dcvc_hem.py acmmm2022_video_psnr.pth.tar OUT`. That shows what is removed
and what it brings in time; for one that still decodes well, train: recipes/paper/dcvc_hem.yaml.
"""

import argparse
from pathlib import Path

import prune
import vcodecs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="the authors' file of the video network")
    parser.add_argument("folder", type=Path, help="where weights and bundle go")
    parser.add_argument("--preset", default="official", help="another size, of your own file")
    parser.add_argument("--budget", type=float, default=0.35)
    parser.add_argument("--align", type=int, default=16, help="widths are multiples of it")
    parser.add_argument("--runs", type=int, default=15, help="timed runs; 0: no times, no export")
    given = parser.parse_args()
    codec = vcodecs.create("dcvc_hem", given.preset, given.checkpoint).eval()
    plan = prune.plan(codec, given.budget, align=given.align, method="one-shot")
    small = prune.shrink(prune.sparsify(codec, plan))
    given.folder.mkdir(parents=True, exist_ok=True)
    vcodecs.save(small, given.folder / "weights.safetensors")
    if given.runs:
        prune.export(small, given.folder / "onnx")
    print(prune.compare(codec, small, runs=given.runs))


if __name__ == "__main__":
    main()
