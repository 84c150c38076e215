"""Milliseconds a frame of dense and pruned decoders, on every runtime and precision.

    python benchmarks/speed.py --codecs dcvc:small,dcvc_hem:official --prepare   # bundles, once
    python benchmarks/speed.py --codecs dcvc:small --ways openvino-bf16,compiled
    python benchmarks/speed.py --codecs dcvc:small --budgets onnxruntime,openvino
    python benchmarks/speed.py --codecs dcvc:small --runs runs/dcvc              # a trained codec
    python benchmarks/speed.py --gpu --codecs dcvc_hem:official                  # on a GPU
    python benchmarks/speed.py --show

A case is a codec and one way of running it. In each round three decoders run, every one of them
first as often as the others: the dense one in eager torch, float32, as it is run before anything
is exported; the dense one this way; the pruned one this way. Ratios are of one round. Cases that
are in benchmarks/results/speed.json for this processor are left out (--again: measured anew), so
that a study can be stopped anywhere and one case be run at a time.

Without --runs the pruned decoder is cut in one shot: its time is that of its widths, its pictures
are worth nothing, and the row says so. Graphs of 8 bits are calibrated on one synthetic clip, with
every layer in 8 bits. --budgets: the choice by a budget in time, predicted and measured; and at
equal MACs the choice by time against the choice by MACs.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from speed_cases import (
    Pair,
    budget_case,
    decoding_case,
    gpu_ways,
    settings_of,
    way_case,
)

from lvc.files import atomic_write
from prune.measure.latency import cpu_name
from vcodecs import UserError

RESULTS = Path(__file__).parent / "results" / "speed.json"
CODECS = "dcvc:small,dcvc:official,dcvc_hem:official,fvc:official"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codecs", default=CODECS, help="CODEC:PRESET,... (default %(default)s)")
    parser.add_argument(
        "--ways", help="by name, see --list; all that this machine has where absent"
    )
    parser.add_argument("--budgets", help="runtimes: onnxruntime,openvino; then no ways are timed")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of prune.run")
    parser.add_argument("--size", default="448x256", help="WIDTHxHEIGHT (default %(default)s)")
    parser.add_argument("--cut", type=float, default=0.65, help="part of the MACs that goes")
    parser.add_argument("--align", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--work", type=Path, default=Path("runs/speed"), help="bundles are kept here"
    )
    parser.add_argument("--prepare", action="store_true", help="make bundles, measure nothing")
    parser.add_argument("--gpu", action="store_true", help="1920x1088, fp16, real files")
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--list", action="store_true", help="the names of ways")
    parser.add_argument("--show", action="store_true", help="print the tables of what was measured")
    return parser.parse_args()


def main():
    given = parse()
    results = read()
    if given.show:
        print(tables(results))
        return
    if given.gpu and not torch.cuda.is_available():
        print("no GPU here that torch can use: nothing was measured")
        return
    ways = gpu_ways() if given.gpu else settings_of()
    if given.list:
        print("\n".join(ways))
        return
    for case, measure in cases(given, ways):
        if case in results["cases"] and not given.again:
            print(f"{case}: measured before")
            continue
        try:
            found = measure()
        except (UserError, RuntimeError) as error:  # OpenVINO's and torch's are RuntimeErrors
            found = {"why": next(iter(str(error).splitlines()), "")[:300]}
        # What else the machine did: runnable processes, a minute's average.
        about = {"torch": torch.__version__.split("+")[0], "load": round(os.getloadavg()[0], 1)}
        results["cases"][case] = found | about
        write(results)
        print(f"{case}: {json.dumps(found)}", flush=True)


def cases(given, ways):
    """(name, function) of all that was asked for, one after the other."""
    width, _, height = ("1920x1088" if given.gpu else given.size).partition("x")
    size = int(height), int(width)
    device = torch.cuda.get_device_name(0) if given.gpu else cpu_name()
    for codec in given.codecs.split(","):
        pairs = [Pair(*codec.split(":"), given.work, given.cut, given.align, None)]
        pairs += [Pair(*codec.split(":"), given.work, 0, 0, run) for run in given.runs]
        for pair in pairs:
            if given.prepare:
                pair.prepare()
                continue
            at = f"{pair.name}, {size[1]}x{size[0]}, {given.threads} threads, {device}"
            if given.budgets:
                for runtime in given.budgets.split(","):
                    yield (
                        f"budget {runtime}: {at}",
                        lambda p=pair, r=runtime: budget_case(p, r, size, given),
                    )
                continue
            for name in given.ways.split(",") if given.ways else ways:
                yield (
                    f"{name}: {at}",
                    lambda p=pair, n=name: way_case(p, n, ways[n], size, given),
                )
            if given.gpu:
                yield f"a real file: {at}", lambda p=pair: decoding_case(p, size)


# ---------------------------------------------------------------------- results


def read():
    try:
        return json.loads(RESULTS.read_text())
    except OSError:
        return {"cases": {}}


def write(results):
    results["cases"] = dict(sorted(results["cases"].items()))
    atomic_write(RESULTS, json.dumps(results, indent=1) + "\n")


def tables(results):
    """Markdown: a table of ways and one of budgets."""
    rows = [
        "| case | dense ms | pruned ms | dense/pruned | eager torch dense / this pruned | quality |"
    ]
    rows += ["|---|---|---|---|---|---|"]
    for case, found in results["cases"].items():
        if "pruned_ms" not in found:
            continue
        dense, pruned = (found[key]["median"] for key in ("dense_ms", "pruned_ms"))
        ratio, eager = (words(found[key]) for key in ("speedup", "against_eager"))
        rows.append(
            f"| {case} | {dense:.0f} | {pruned:.0f} | {ratio} | {eager} | {found['quality']} |"
        )
    rows += ["", "| case | predicted | measured | dense: predicted, measured ms | at equal MACs |"]
    rows += ["|---|---|---|---|---|"]
    for case, found in results["cases"].items():
        if "predicted" not in found:
            continue
        dense = found["dense_ms"]
        rows.append(
            f"| {case} | {found['predicted']:.3f} | {words(found['measured'])} | "
            f"{dense['predicted']:.0f}, {dense['measured']:.0f} | {words(found['equal_macs'])} |"
        )
    missing = [f"- {case}: {found['why']}" for case, found in results["cases"].items()
               if "why" in found]  # fmt: skip
    return "\n".join([*rows, "", *missing])


def words(spread):
    return f"{spread['median']:.2f} ({spread['p10']:.2f} to {spread['p90']:.2f})"


if __name__ == "__main__":
    main()
