"""Measurements of one codec, in a JSON file that a killed evaluation goes on from."""

import json
from dataclasses import asdict, dataclass, replace

from rd.curves import Point, averaged, drift
from rd.project import UserError, atomic_write, mean


@dataclass(frozen=True)
class Member:
    """One checkpoint of a codec and the I frames in front of its P frames.

    `weights`: a digest of all weights that take part, the I frames' too.
    """

    checkpoint: str
    intra: str
    weights: str


@dataclass(frozen=True)
class Measured:
    """A clip at one rate: averages over all frames and over P frames, PSNR of each P frame.

    `member`: number of the checkpoint; `rate`: None of a codec of one lambda. Bits per pixel, dB.
    """

    clip: str
    member: int
    rate: float | None
    bpp: float
    psnr: float
    p_bpp: float
    p_psnr: float
    p_frame_psnr: tuple[float, ...]
    seconds: float
    device: str

    @property
    def key(self):
        return self.clip, self.member, self.rate


@dataclass
class Results:
    """All of a codec's points. `bits` is real or estimated, `frames` the most frames of a clip."""

    name: str
    codec: str
    preset: str
    bits: str
    frames: int
    members: tuple[Member, ...]
    command: str
    clips: dict[str, dict]
    points: list[Measured]

    def rates(self):
        """(member, rate) of all points, in order of the members and rates."""
        return sorted({(p.member, p.rate) for p in self.points}, key=lambda r: (r[0], r[1] or 0))

    def label(self, member, rate):
        """A rate point's name in tables: the rate, the checkpoint, or both where it takes both."""
        if rate is None:
            return self.members[member].checkpoint
        own = f"rate {rate:g}"
        return own if len(self.members) == 1 else f"{self.members[member].checkpoint}, {own}"

    def at(self, member, rate, clips):
        """The points of these clips at one rate, in the clips' order."""
        found = {p.clip: p for p in self.points if (p.member, p.rate) == (member, rate)}
        return [found[clip] for clip in clips]

    def whole_clips(self):
        """The clips that were measured at every rate: averages are over these."""
        keys = {p.key for p in self.points}
        return [c for c in self.clips if all((c, *rate) in keys for rate in self.rates())]

    def curve(self, clips):
        """The average over `clips` at each rate, all frames, as a curve."""
        return averaged(
            [Point(p.bpp, p.psnr) for p in points]
            for points in zip(*(self.at(*rate, clips) for rate in self.rates()), strict=True)
        )

    def drift(self, member, rate, clips):
        """Mean over clips, and the worst clip's: see `rd.curves.drift`."""
        each = [drift(p.p_frame_psnr) for p in self.at(member, rate, clips)]
        return mean(each), min(each)

    def missing(self, clip, rates):
        """Those of `rates`, (member, rate), that a `Clip` was not measured at.

        Points of other frames under the clip's name are dropped.
        """
        if self.clips.get(clip.name) != clip.entry():
            self.points = [p for p in self.points if p.clip != clip.name]
            self.clips[clip.name] = clip.entry()
        done = {p.key for p in self.points}
        return [rate for rate in rates if (clip.name, *rate) not in done]

    def save(self, path):
        about = asdict(replace(self, clips={}, points=[]))
        members = about.pop("members")
        sections = {
            "about": {k: v for k, v in about.items() if k not in ("clips", "points")},
            "members": members,
            "clips": dict(sorted(self.clips.items())),
            "points": [asdict(p) for p in sorted(self.points, key=_order)],
        }
        atomic_write(path, listed(sections))


def _order(point):
    return point.clip, point.member, point.rate or 0


def load(path):
    """The results in a file. UserError where it holds none."""
    try:
        content = json.loads(path.read_text())
        return Results(
            **content["about"],
            members=tuple(Member(**member) for member in content["members"]),
            clips=content["clips"],
            points=[
                Measured(**{**p, "p_frame_psnr": tuple(p["p_frame_psnr"])})
                for p in content["points"]
            ],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no results of ours ({error!r}): --anew replaces it") from error


def resumed(path, fresh, anew=False):
    """`fresh` results, or those in the file where they are of the same codec and settings.

    UserError where the file holds others, unless `anew`: an hour's work is not dropped unasked.
    """
    if anew or not path.is_file():
        return fresh
    old = load(path)
    for what in ("codec", "preset", "bits", "frames", "members"):
        if getattr(old, what) != getattr(fresh, what):
            raise UserError(
                f"{path} holds results of other {what} ({_said(getattr(old, what))}, now "
                f"{_said(getattr(fresh, what))}): choose another name, or --anew to replace them"
            )
    return old


def _said(value):
    return ", ".join(" ".join(asdict(m).values()) for m in value) if type(value) is tuple else value


def listed(content):
    """JSON with one line for each item of a section: small, and good to compare."""
    sections = []
    for name, section in content.items():
        if isinstance(section, dict):
            lines = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in section.items()]
            start, end = "{", "}"
        else:
            lines = [f"  {json.dumps(item)}" for item in section]
            start, end = "[", "]"
        sections.append(f" {json.dumps(name)}: {start}\n" + ",\n".join(lines) + f"\n {end}")
    return "{\n" + ",\n".join(sections) + "\n}\n"
