"""Codes clips with a codec at all its rates, in a coding loop, and keeps every result at once."""

import hashlib
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rd.clips import FRAMES
from rd.project import (
    UserError,
    code_i_frames,
    codec_of,
    create,
    create_intra,
    evaluate_clip,
    possible_bits,
)
from rd.results import Measured, Member, Results


@dataclass(frozen=True)
class Loaded:
    """One checkpoint and its I frames, ready to code; `said` is what results say of it."""

    codec: nn.Module
    intra: object
    said: Member


def load_members(checkpoints, intras, codec=None, preset="official"):
    """Load each checkpoint, with the intra codec of the same place or the only one.

    `codec` and `preset` are for files that do not say what they are of. Raises UserError where
    the numbers do not fit or the checkpoints are of different codecs.
    """
    if len(intras) not in (1, len(checkpoints)):
        raise UserError(
            f"--intra: give one, or one for each of the {len(checkpoints)} checkpoints; "
            f"there are {len(intras)}"
        )
    if len(intras) == 1:
        intras = list(intras) * len(checkpoints)
    loaded = []
    for checkpoint, spec in zip(checkpoints, intras, strict=True):
        network = create(codec, preset, checkpoint) if codec else codec_of(checkpoint)
        intra = create_intra(spec)
        weights = digest(network, getattr(intra, "network", None))
        name = Path(checkpoint).stem if Path(checkpoint).is_file() else str(checkpoint)
        said = Member(name, without_folders(spec), weights)
        loaded.append(Loaded(network.eval().requires_grad_(False), intra, said))
    if len(kinds := {(one.codec.name, one.codec.preset) for one in loaded}) > 1:
        raise UserError(f"the checkpoints are of different codecs: {sorted(kinds)}")
    return loaded


def without_folders(spec):
    """An intra codec's spec with the name alone of a checkpoint's path."""
    return re.sub(r"checkpoint=[^,]*/", "checkpoint=", spec)


def digest(*networks):
    """16 hexadecimal digits of all weights."""
    found = hashlib.sha256()
    for network in filter(None, networks):
        for name, value in sorted(network.state_dict().items()):
            array = value.detach().float().cpu().contiguous().numpy()
            found.update(f"{name} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


def fresh_results(name, loaded, bits, frames):
    """Results without points, and with the command that makes them."""
    codec, members = loaded[0].codec, tuple(one.said for one in loaded)
    intras = list(dict.fromkeys(member.intra for member in members))
    intras = intras if len(intras) == 1 else [member.intra for member in members]
    words = [name, "--checkpoints", *(m.checkpoint for m in members), "--intra", *intras]
    words += [] if bits == "real" else ["--bits", bits]
    words += [] if frames == FRAMES else ["--frames", str(frames)]
    command = f"python benchmarks/teachers.py {shlex.join(words)} --source CLIPS"
    bits = possible_bits(codec, bits)
    return Results(name, codec.name, codec.preset, bits, frames, members, command, {}, [])


def evaluate(results, path, loaded, clips, device, told):
    """Measure what is missing of `clips` at all rates; the file is written after each point."""
    rates = [(number, rate) for number, one in enumerate(loaded) for rate in one.codec.rates()]
    for one in loaded:
        one.codec.to(device)
    for clip in clips:
        missing = results.missing(clip, rates)
        for member, rate in missing:
            point = measure(loaded[member], clip, member, rate, results.bits, device)
            results.points.append(point)
            results.save(path)
            told(
                f"{clip.name}, {results.label(member, rate)}: {point.bpp:.4f} bpp, "
                f"{point.psnr:.2f} dB, {point.seconds:.0f} s"
            )
        yield clip


def measure(one, clip, member, rate, bits, device):
    """One clip at one rate: an I frame, then P frames that each follow what was decoded."""
    begin = time.perf_counter()
    frames = clip.pictures
    with torch.no_grad():
        i_frames = code_i_frames(frames, one.intra, len(frames), rate, device)
    result = evaluate_clip(
        one.codec, frames, one.intra, rate, len(frames), i_frames=i_frames, bits=bits
    )
    seconds = time.perf_counter() - begin
    return Measured(
        clip=clip.name,
        member=member,
        rate=rate,
        bpp=round(result.bpp, 6),
        psnr=round(result.psnr, 4),
        p_bpp=round(result.p_bpp, 6),
        p_psnr=round(result.p_psnr, 4),
        p_frame_psnr=tuple(round(value, 3) for value in result.frame_psnr[1:]),
        seconds=round(seconds, 1),
        device=described(device),
    )


def described(device):
    """cpu with its threads, or the GPU's name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
