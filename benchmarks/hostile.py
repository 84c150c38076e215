"""Damaged and forged files, weights and bundles, through whole decoders with real networks.

    python benchmarks/hostile.py
    python benchmarks/hostile.py --weights dcvc_small --flips 1000 --json attacks.json
    python benchmarks/hostile.py --only "fvc shrunk, torch, payload, sealed again, seed 4711"

A small file (I P P I P, 60x52) is made by every codec, dense and shrunk, and attacked through the
decoder in torch and in the ONNX bundle (onnxruntime), one thread each. Every attack has to end in
one clear error, with the pictures before the damage as they were, or with the original's pictures;
other pictures are allowed where attackers make their own checksums and leave out the digests.
`--flips` are shared out among the decoders. A process that dies or hangs is told with the attack
that it was at. The table goes to standard error, the JSON to standard output or a file; the exit
status is 1 where anything was unexpected. The attacks are those of tests/attacks.py and targets.py.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import attacks
import targets
from attacks import CUT, DAMAGE, DECODED, REFUSED, WHOLE, Attack

from prune.cli import main
from vcodecs import registry

CODECS = ("dcvc", "dcvc_hem", "dcvc_sdd", "elf_vc", "fvc", "slimvc")
HANGS = 120
"""Seconds after which an attack counts as a hang."""
MOST_GROWTH = 512
"""MiB that attacks may add to a decoder's memory (pictures of 4096x2304 are among them)."""
ENDS = {
    REFUSED: "refused",
    DAMAGE: "damage told",
    CUT: "cut told",
    "same": "same pictures",
    "others": "other pictures",
}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--codec", nargs="+", choices=CODECS, default=CODECS, help="tiny presets")
    chosen.add_argument("--weights", help="a checkpoint instead, or bundled weights' name")
    parser.add_argument("--intra", default="hevc:qp=30", help="I frames with --weights")
    parser.add_argument("--flips", type=int, default=10_000, help="of each class, in all decoders")
    parser.add_argument("--commands", type=int, default=300, help="runs of whole command lines")
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    parser.add_argument("--json", type=Path, help="a file instead of standard output")
    return parser.parse_args()


def make_cases(given, folder):
    if given.weights:
        intra = None
        if given.intra.startswith("network:"):
            intra = registry.codec_of(given.intra.removeprefix("network:checkpoint="))
        codec = registry.codec_of(given.weights).eval()
        name = Path(given.weights).stem
        return [
            targets.make_case(folder / name, name, codec, None if intra else given.intra, intra)
        ]
    return [
        targets.tiny_case(folder / f"{codec}_{kind}", codec, kind)
        for codec, kind in itertools.product(given.codec, ("dense", "shrunk"))
        if (codec, kind) != ("slimvc", "shrunk")  # its widths are shrunk one by one
    ]


# ------------------------------------------------------------------------------ one decoder


@dataclass(frozen=True)
class Job:
    """A case and a decoder of it; `seeds` and `commands` are its share."""

    case: targets.Case
    runtime: str
    others: list
    seeds: range
    commands: int
    only: str
    scratch: Path


def work(job, connection):
    """Attack one decoder and send what happens; runs in a process of its own."""
    torch.set_num_threads(1)
    target = targets.Target(job.case, job.runtime, job.scratch)
    for name, tries in classes(job, target).items():
        before = peak_memory(anew=True)
        for attack, attempt in tries:
            title = f"{job.case.name}, {job.runtime}, {name}, {attack.name}"
            if job.only not in title:
                continue
            connection.send(("trying", name, title))
            begin = time.perf_counter()
            ending, problem = attempt(attack)
            seconds = time.perf_counter() - begin
            told = (sort(target, ending), said(ending), problem, seconds, seconds / target.seconds)
            connection.send(("ended", name, told))
        connection.send(("memory", name, peak_memory() - before))
    connection.send(("done", "", None))


def classes(job, target):
    """By name, pairs of an attack and what tries it: (ending, problem)."""

    def player(attack):
        ending = target.attempt(attack)
        return ending, target.problem(attack, ending)

    by_player = {
        name: ((attack, player) for attack in found)
        for name, found in player_attacks(target.original, job.seeds).items()
    }
    return by_player | command_attacks(job, target)


def player_attacks(original, seeds):
    made_up = seeds[: max(1, len(seeds) // 10)]
    return {
        "cut at every byte": attacks.truncations(original),
        "every bit outside payloads": attacks.flipped_heads(original),
        "payload": attacks.flipped_payloads(original, seeds),
        "payload, sealed again": attacks.resealed_payloads(original, seeds),
        "payload, sealed again, no digest": attacks.resealed_payloads(original, seeds, False),
        "made-up payload, no digest": attacks.made_up_payloads(original, made_up),
        "absurd rate": attacks.forged_rates(original),
    }


def command_attacks(job, target):
    original = target.original
    drawn = drawn_attacks(original, job.seeds[: job.commands])
    headers = attacks.forged_headers(original)
    others = targets.wrong_decoders(job.case, job.runtime, job.others)
    spoilt = spoilt_decoders(job, range(4), of_json=False)

    def by_decoders(found):
        for name, options in found:
            attack = Attack(name, original.data, -1, DECODED | {REFUSED})
            yield attack, Command(job, target, True, options)

    return {
        "command line": ((attack, Command(job, target)) for attack in drawn),
        "absurd header": ((attack, Command(job, target, True)) for attack in headers),
        "wrong weights or bundle": by_decoders(itertools.chain(spoilt, others)),
        "bits of bundle.json": by_decoders(spoilt_decoders(job, range(40), of_json=True)),
    }


def spoilt_decoders(job, seeds, of_json):
    """Files of weights and bundles that are not whole; flipped bits of bundle.json, or all else."""
    folder = job.scratch / "decoder"
    for name, options in targets.spoilt_decoders(job.case, job.runtime, folder, seeds):
        if ("bundle.json bit" in name) == of_json:
            yield name, options


def drawn_attacks(original, seeds):
    """For whole command lines: an attack of each class in turn, spread over the file."""
    step = max(1, len(seeds) // 5)
    found = zip(
        attacks.truncations(original, max(1, len(original.data) // step)),
        attacks.flipped_heads(original, max(1, 8 * len(original.heads()) // step)),
        attacks.flipped_payloads(original, seeds[:step]),
        attacks.resealed_payloads(original, seeds[:step]),
        attacks.resealed_payloads(original, seeds[:step], digests=False),
        strict=False,
    )
    return itertools.chain.from_iterable(found)


class Command:
    """Tries an attack by the command line, which has to say what the player says.

    `forged`: other headers or other decoders, where there is nothing to compare with; they end in
    an error or in the original's pictures.
    """

    def __init__(self, job, target, forged=False, options=None):
        self.job, self.target, self.forged, self.options = job, target, forged, options or {}

    def __call__(self, attack):
        source, made = self.job.scratch / "command.lvc", self.job.scratch / "made.mkv"
        targets.overwrite(source, attack.data)
        case, runtime = self.job.case, self.job.runtime
        told, pictures = targets.decode_by_command(case, runtime, source, made, **self.options)
        ending = targets.ending_of(told, pictures)
        return ending, self.problem(attack, ending)

    def problem(self, attack, ending):
        if ending.how not in (REFUSED, DAMAGE, CUT, WHOLE):
            return f"{ending.how}: {ending.message}"
        if not self.forged:
            wanted = self.target.attempt(attack)
            alike = targets.alike(ending.pictures, wanted.pictures)
            same = alike == len(wanted.pictures) == len(ending.pictures)
            return "" if same and ending.how == wanted.how else f"not {wanted.how}: {ending}"
        if ending.how not in attack.ends:
            return f"ended with {ending.how}: {ending.message}"
        others = sort(self.target, ending) == "others" and not attack.others
        return "shows other pictures" if others else ""


def sort(target, ending):
    """Which of `ENDS`; "unexpected" where it is none."""
    if ending.how == WHOLE:
        alike = target.alike(ending)
        return "same" if alike == len(ending.pictures) == len(target.pictures) else "others"
    return ending.how if ending.how in ENDS else "unexpected"


def said(ending):
    """The fault of a packet that a message tells, without numbers."""
    if ending.how != DAMAGE:
        return ""
    problem = re.sub(r".*, packet \d+: ", "", ending.message)
    return re.sub(r"\d[\w.]*", "N", problem.partition(";")[0].partition(": ")[0])


def peak_memory(anew=False):
    """MiB of the process at most, since it was last called with `anew` where the system can."""
    if anew:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


# ------------------------------------------------------------------------------ all decoders


@dataclass
class Tally:
    """The outcome of a class of attacks."""

    ends: Counter = field(default_factory=Counter)
    said: Counter = field(default_factory=Counter)
    unexpected: list = field(default_factory=list)
    seconds: float = 0.0
    times_normal: float = 0.0
    growth: float = 0.0

    def add(self, title, end, message, problem, seconds, times_normal):
        self.ends["unexpected" if problem else end] += 1
        self.said[message] += bool(message)
        self.seconds = max(self.seconds, seconds)
        self.times_normal = max(self.times_normal, times_normal)
        if problem:
            self.unexpected.append(f"{title}: {problem}")

    def as_dict(self):
        return {
            "tried": self.ends.total(),
            "ends": dict(self.ends),
            "said": {message: count for message, count in self.said.most_common() if count},
            "worst_seconds": round(self.seconds, 3),
            "worst_times_normal": round(self.times_normal, 2),
            "memory_growth_mib": round(self.growth, 1),
            "unexpected": self.unexpected,
        }


def attack_decoder(job, tallies):
    """Run one job in a process and count; a process that dies or hangs is a find as well."""
    spawn = multiprocessing.get_context("spawn")
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=work, args=(job, sending), daemon=True)
    process.start()
    sending.close()
    name, title = "start", f"{job.case.name}, {job.runtime}"
    try:
        while receiving.poll(HANGS):
            kind, name, content = receiving.recv()
            if kind == "done":
                return
            if kind == "trying":
                title = content
            elif kind == "ended":
                tallies.setdefault(name, Tally()).add(title, *content)
            else:
                tally = tallies.setdefault(name, Tally())
                tally.growth = max(tally.growth, content)
        problem = f"hangs for {HANGS} s"
    except EOFError:
        problem = "the process died"
    finally:
        process.kill()
        process.join()
    tallies.setdefault(name, Tally()).add(title, "unexpected", "", problem, 0.0, 0.0)


def jobs(given, cases, folder):
    found = list(itertools.product(cases, targets.RUNTIMES))
    share, commands = -(-given.flips // len(found)), -(-given.commands // len(found))
    for i, (case, runtime) in enumerate(found):
        scratch = folder / f"scratch_{i}"
        scratch.mkdir()
        others = [other for other in cases if other != case]
        seeds = range(i * share, (i + 1) * share)
        yield Job(case, runtime, others, seeds, commands, given.only, scratch)


def show(tallies, console):
    table = Table(title="attacks on whole decoders, and how they ended")
    table.add_column("attack")
    for heading in ("tried", *ENDS.values(), "unexpected", "worst s", "x normal", "MiB more"):
        table.add_column(heading, justify="right")
    for name, tally in tallies.items():
        counts = [str(tally.ends[end] or "") for end in (*ENDS, "unexpected")]
        worst = f"{tally.seconds:.2f}", f"{tally.times_normal:.1f}", f"{tally.growth:.0f}"
        table.add_row(name, str(tally.ends.total()), *counts, *worst)
    console.print(table)
    for name in tallies:
        for message, count in tallies[name].said.most_common():
            if count and "sealed" in name:
                console.print(f"{name}: {count} {message}", markup=False, soft_wrap=True)


def run():
    given = parse()
    console = Console(stderr=True)
    tallies = {}
    with tempfile.TemporaryDirectory() as folder:
        cases = make_cases(given, Path(folder))
        for job in jobs(given, cases, Path(folder)):
            console.print(f"{job.case.name}, {job.runtime}", markup=False)
            attack_decoder(job, tallies)
    tallies = {name: tally for name, tally in tallies.items() if tally.ends}
    show(tallies, console)
    content = json.dumps({name: tally.as_dict() for name, tally in tallies.items()}, indent=1)
    if given.json:
        given.json.write_text(content + "\n", encoding="utf-8")
    else:
        print(content)
    found = [find for tally in tallies.values() for find in tally.unexpected]
    found += [f"{n}: {t.growth:.0f} MiB" for n, t in tallies.items() if t.growth > MOST_GROWTH]
    for find in found:
        console.print(f"[red]unexpected[/red]: {escape(find[:500])}", soft_wrap=True)
    if found:
        sys.exit(1)


if __name__ == "__main__":
    main(run)
