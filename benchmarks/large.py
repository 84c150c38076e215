"""A codec of a billion weights, shrunk in one shot where it fits into memory only once.

    python benchmarks/large.py                                     # NVC-1B to a fifth
    python benchmarks/large.py --preset official --budget 0.35

Weights are drawn, since none have been released; what is measured, time and memory, does not
depend on their values. Written to benchmarks/results/large/: seconds of the processor and of the
clock by step, the peak of the process's memory, and what has become of weights and MACs.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import torch

import vcodecs
from prune.measure.latency import cpu_name
from prune.measure.macs import decoder_macs, parameters
from prune.pipeline.in_place import shrink_in_place, without_values
from prune.recipe.schema import MeasureSection, PruneSection

RESULTS = Path(__file__).parent / "results" / "large"


class Watch:
    """Seconds by step, of clock and processor, and the memory's peak so far."""

    def __init__(self):
        self.steps = []

    def tell(self, step):
        self.end()
        self.steps.append({"step": step, "from": (time.monotonic(), time.process_time())})

    def end(self):
        if self.steps and "from" in self.steps[-1]:
            clock, processor = self.steps[-1].pop("from")
            row = {
                "seconds": time.monotonic() - clock,
                "processor_seconds": time.process_time() - processor,
                "peak_gib": peak(),
            }
            self.steps[-1] |= {key: round(value, 2) for key, value in row.items()}
            print(self.steps[-1], flush=True)


def peak():
    """GiB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codec", default="dcvc_sdd")
    parser.add_argument("--preset", default="nvc_1b")
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--save", type=Path, help="write the shrunk codec here")
    return parser.parse_args()


def main():
    given = parse()
    watch = Watch()
    measure = MeasureSection()
    watch.tell("nothing but the program")
    watch.tell("drawing weights")
    torch.manual_seed(0)
    codec = vcodecs.create(given.codec, given.preset)
    before = parameters(codec)
    macs = decoder_macs(without_values(codec), measure.height, measure.width).total
    settings = PruneSection.model_validate({"budget": given.budget, "method": "one-shot"})
    kept = shrink_in_place(codec, settings, measure, watch.tell)
    if given.save:
        watch.tell("saving")
        vcodecs.checkpoints.save(codec, given.save, kept)
    watch.end()
    after = decoder_macs(without_values(codec), measure.height, measure.width).total
    result = {
        "codec": f"{given.codec} {given.preset}",
        "budget": given.budget,
        "weights": {"dense": before, "shrunk": parameters(codec)},
        "weights_gib": {"dense": before * 4 / 2**30, "shrunk": parameters(codec) * 4 / 2**30},
        "decoder_macs": {"dense": macs, "shrunk": after},
        "peak_gib": peak(),
        "steps": watch.steps,
        "cpu": cpu_name(),
        "load_at_end": os.getloadavg(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{given.codec}_{given.preset}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path}: {result['decoder_macs']}, peak {result['peak_gib']:.2f} GiB")


if __name__ == "__main__":
    main()
