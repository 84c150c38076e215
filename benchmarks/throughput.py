"""How fast training clips come, by kind of source and number of workers, and how long steps wait.

    python benchmarks/throughput.py CLIPS
    python benchmarks/throughput.py CLIPS --workers 0,1,2 --seconds 10 --json FILE

The clips of a folder are read as they are (videos), prepared (`python -m prune.prepare`), as a
folder of frames each, as septuplets in Vimeo-90k's layout, and beside them procedural ones, which
need no files. A sample is two frames of a random crop. Clips a second are those of the loader
alone, behind a first batch that is not counted. Waiting is the share of the time of training steps
(forward and backward of a bundled codec, as many threads as given) that is spent asking for the
next batch, in the same loader.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

import vcodecs
from lvc.files import atomic_write
from prune.data import SourceSpec, open_source
from prune.data.packed import pack
from prune.data.training import TrainingClips, as_pixels, batches
from prune.evaluation.clips import read_clips
from prune.measure.latency import cpu_name
from prune.training.loss import rate_distortion

SEPTUPLET = 7


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("--frames", type=int, default=28, help="prepared of each clip")
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--codec", default="fvc_small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def sources(arguments, folder):
    """The same clips by kind of source."""
    packed, frames, vimeo = folder / "packed", folder / "frames", folder / "vimeo"
    opened = open_source(arguments.clips)
    pack(opened, packed, arguments.frames, 1)
    listed = []
    for number, (_, clip) in enumerate(read_clips(opened, arguments.frames, None, {}), 1):
        place = frames / f"clip{number}"
        place.mkdir(parents=True)
        for at, picture in enumerate(clip):
            image = Image.fromarray(picture.transpose(1, 2, 0))
            image.save(place / f"{at:04}.png")
            scene, position = at // SEPTUPLET + 1, at % SEPTUPLET + 1
            name = f"{number:05}/{scene:04}"
            septuplet = vimeo / "sequences" / name
            septuplet.mkdir(parents=True, exist_ok=True)
            shutil.copy(place / f"{at:04}.png", septuplet / f"im{position}.png")
            if position == SEPTUPLET:
                listed.append(name)
    (vimeo / "sep_trainlist.txt").write_text("\n".join(listed) + "\n")
    return {
        "videos": open_source(arguments.clips),
        "prepared": open_source(packed),
        "frames (PNG)": open_source(SourceSpec(kind="frames", path=frames)),
        "Vimeo-90k layout (PNG)": open_source(SourceSpec(kind="vimeo", path=vimeo)),
        "procedural": open_source("procedural"),
    }


def loader(source, workers, arguments):
    clips = TrainingClips([(source, 1.0)], 2, arguments.crop, 0, 10**7)
    return batches(clips, arguments.batch, 0, workers, True)


def clips_a_second(source, workers, arguments):
    stream = loader(source, workers, arguments)
    next(stream)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < arguments.seconds:
        count += len(next(stream))
    return count / (time.perf_counter() - begun)


def waiting(source, workers, arguments):
    """Share of the time of steps that is spent waiting, and seconds of a step without it."""
    name = arguments.codec.rpartition("_")[0]
    codec = vcodecs.create(name, checkpoint=arguments.codec).to(memory_format=torch.channels_last)
    codec.train()
    stage = {stage.name: stage for stage in codec.stages()}["joint"]
    rate = None if codec.rates()[0] is None else codec.rates()[0]
    stream = loader(source, workers, arguments)
    next(stream)
    waited, begun, steps = 0.0, time.perf_counter(), 0
    while time.perf_counter() - begun < 2 * arguments.seconds:
        asked = time.perf_counter()
        clip = as_pixels(next(stream))
        waited += time.perf_counter() - asked
        codec.zero_grad()
        rate_distortion(codec, clip, stage, 1024.0, 0.02, rate).loss.backward()
        steps += 1
    passed = time.perf_counter() - begun
    return waited / passed, (passed - waited) / steps


def study():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # as trainings do
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, source in sources(arguments, Path(folder)).items():
            for workers in map(int, arguments.workers.split(",")):
                speed = clips_a_second(source, workers, arguments)
                share, seconds = waiting(source, workers, arguments)
                rows.append(
                    {
                        "source": kind,
                        "workers": workers,
                        "clips_a_second": round(speed, 1),
                        "waiting": round(share, 4),
                        "step_seconds": round(seconds, 3),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    keys = ("crop", "batch", "codec", "threads")
    found = {"cpu": cpu_name(), "torch": torch.__version__}
    found |= {key: getattr(arguments, key) for key in keys} | {"rows": rows}
    if arguments.json:
        atomic_write(arguments.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    study()
