"""A dense codec on real clips at all its rates, beside x264, x265 and SVT-AV1.

    python benchmarks/teachers.py dcvc_hem_small --checkpoints dcvc_hem_small \\
        --intra network:checkpoint=dcvc_hem_intra_small --source CLIPS
    python benchmarks/teachers.py mine --checkpoints low.safetensors high.safetensors \\
        --intra hevc:qp=32 hevc:qp=22 --source CLIPS
    python benchmarks/teachers.py dcvc_hem_small
    python benchmarks/teachers.py --document

The first two measure: 32 frames of each clip in a coding loop, one I frame, then P frames that each
follow the last reconstruction, at each of the codec's rates. A codec of one lambda has a checkpoint
a rate, each with I frames of its own or all with the same. Every result is written at once to
benchmarks/results/teachers/NAME.json; the same command goes on from there. Anchors come from
benchmarks/results/anchors.json and are measured where they are missing. On cores that are busy
with other work `--threads 1` can be several times as fast as more threads, which wait for each
other.

With a name alone the tables of what is there are printed. `--document` draws and writes all codecs'
results into docs/teachers.md, between the marks; what stands around them stays.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from rd.anchors import KINDS, Store
from rd.clips import FRAMES, read_clips
from rd.document import write_document
from rd.evaluate import evaluate, fresh_results, load_members
from rd.project import UserError, main
from rd.results import load, resumed
from rd.tables import card, compared

ROOT = Path(__file__).parents[1]
console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="what the results are called")
    parser.add_argument("--checkpoints", nargs="+", help="files, or names of bundled weights")
    parser.add_argument("--codec", help="of files that do not say what they are of")
    parser.add_argument("--preset", default="official", help="of the same files")
    parser.add_argument("--intra", nargs="+", default=["hevc:qp=22"], help="one, or one each")
    parser.add_argument("--source", help="a clip, a folder, or procedural")
    parser.add_argument("--clips", nargs="+", help="names of clips, else all")
    parser.add_argument("--frames", type=int, default=FRAMES, help="first frames of each clip")
    parser.add_argument("--bits", choices=("real", "estimated"), default="real")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--anew", action="store_true", help="drop the results of that name")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--document", action="store_true", help="write docs/teachers.md")
    return parser.parse_args()


def device_of(wanted):
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("--device cuda: torch finds no CUDA device; leave it out for the CPU")
    return "cuda" if there and wanted != "cpu" else "cpu"


def anchors_of(arguments, frames):
    """The store of anchors over so many frames: another number has another file."""
    name = "anchors.json" if frames == FRAMES else f"anchors_{frames}.json"
    return Store(arguments.results / name)


def measure(arguments, path):
    """Evaluate what is missing, clip by clip, and its anchors."""
    if not arguments.source:
        raise UserError("--source is needed to measure: a clip, or a folder of clips")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = device_of(arguments.device)
    loaded = load_members(arguments.checkpoints, arguments.intra, arguments.codec, arguments.preset)
    fresh = fresh_results(arguments.name, loaded, arguments.bits, arguments.frames)
    results = resumed(path, fresh, arguments.anew)
    store = anchors_of(arguments, arguments.frames)
    clips = read_clips(arguments.source, arguments.frames, arguments.clips)
    for clip in evaluate(results, path, loaded, clips, device, console.print):
        for kind in KINDS:
            store.curve(clip, kind, console.print)


def run():
    arguments = parse()
    path = arguments.results / "teachers" / f"{arguments.name}.json"
    if arguments.checkpoints and arguments.name:
        measure(arguments, path)
    elif not arguments.document and not arguments.name:
        raise UserError("give a name and --checkpoints to measure, or --document")
    if arguments.name:
        if not path.is_file():
            raise UserError(f"{path}: not there yet: give --checkpoints and --source to measure")
        results = load(path)
        print(card(compared(results, anchors_of(arguments, results.frames))))
    if arguments.document:
        paths = sorted((arguments.results / "teachers").glob("*.json"))
        found = [r for r in map(load, paths) if r.frames == FRAMES]
        written = write_document(ROOT / "docs", found, anchors_of(arguments, FRAMES))
        console.print(f"written: {', '.join(str(p.relative_to(ROOT)) for p in written)}")


if __name__ == "__main__":
    main(run)
