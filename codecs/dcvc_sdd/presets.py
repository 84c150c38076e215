"""Sizes of DCVC-SDD: the public one, those that NVC-1B was found by, NVC-1B, and small ones.

The paper of NVC-1B (Sheng et al., 2024) prints totals and, for NVC-1B, the size of six modules,
but no width: how widths are shared out here is our choice (docs/codecs/dcvc_sdd.md). M19 to M24,
which have attention layers and lose to convolutions of the same size, are not there.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Widths:
    """Channels, by where they are.

    `contexts`, at full, half and quarter size, and `feature`, which is kept, are what the modules
    exchange. `mining` and `mining_depth`: inside context mining, and its residual blocks in a row
    at quarter size. `contextual` (1/2, 1/4, 1/8), `contextual_depth` (blocks there), `unet` and
    `decoded`: of the contextual coder. `latent`; `temporal`: inside the temporal prior. `motion`
    and `motion_depth`: inside the motion coder; `motion_latent`. `groups` and `offsets`: of offset
    diversity, its groups and the width of the network that steers it. `wide`: how many times wider
    depthwise blocks' second halves are inside. `flow`: of SpyNet.
    """

    contexts: tuple[int, int, int] = (48, 64, 96)
    feature: int = 48
    mining: tuple[int, int, int] = (48, 64, 96)
    mining_depth: int = 1
    contextual: tuple[int, int, int] = (64, 96, 96)
    contextual_depth: tuple[int, int, int] = (1, 1, 0)
    unet: tuple[int, int, int] = (32, 64, 128)
    decoded: int = 32
    latent: int = 128
    temporal: int = 96
    motion: int = 64
    motion_depth: int = 1
    motion_latent: int = 64
    groups: int = 16
    offsets: int = 64
    wide: int = 4
    flow: tuple[int, int, int, int] = (32, 64, 32, 16)


def _motion(width: int, latent: int = 64) -> Widths:
    return Widths(motion=width, motion_depth=2, motion_latent=latent)


def _contextual(e: tuple[int, int, int], entropy: int | None = None) -> Widths:
    wider = Widths(contextual=e, contextual_depth=(1, 1, 4), unet=(64, 128, 256))
    return wider if entropy is None else replace(wider, latent=entropy, temporal=entropy)


_M10 = _contextual((128, 256, 320), 320)
_M11 = _contextual((128, 256, 512), 512)
_M12 = _contextual((160, 512, 512), 512)

PRESETS: dict[str, Widths] = {
    "official": Widths(),
    "m1": _motion(384),
    "m2": _motion(512),
    "m3": _motion(624),
    "m4": _motion(384, 432),
    "m5": _motion(512, 504),
    "m6": _motion(624, 560),
    "m7": _contextual((128, 256, 320)),
    "m8": _contextual((128, 256, 512)),
    "m9": _contextual((160, 512, 512)),
    "m10": _M10,
    "m11": _M11,
    "m12": _M12,
    "m13": Widths(mining=(48, 64, 128), mining_depth=4),
    "m14": Widths(mining=(64, 128, 256), mining_depth=4),
    "m15": Widths(mining=(64, 128, 384), mining_depth=4),
    "m16": replace(_M10, mining=(64, 128, 384), mining_depth=4),
    "m17": replace(_M11, mining=(64, 128, 384), mining_depth=4),
    "m18": replace(_M12, mining=(64, 128, 384), mining_depth=4),
    "nvc_1b": Widths(
        mining=(64, 256, 896),
        mining_depth=6,
        contextual=(128, 640, 1024),
        contextual_depth=(1, 4, 10),
        unet=(64, 128, 256),
        decoded=64,
        latent=960,
        temporal=1536,
    ),
    "small": Widths(
        contexts=(16, 16, 24),
        feature=16,
        mining=(16, 16, 24),
        contextual=(24, 24, 32),
        unet=(16, 24, 24),
        decoded=12,
        latent=48,
        temporal=16,
        motion=24,
        motion_latent=16,
        groups=4,
        offsets=16,
        wide=2,
        flow=(12, 12, 8, 8),
    ),
    "tiny": Widths(
        contexts=(16, 16, 16),
        feature=16,
        mining=(16, 16, 16),
        contextual=(16, 16, 16),
        unet=(16, 16, 16),
        decoded=16,
        latent=16,
        temporal=16,
        motion=16,
        motion_latent=16,
        groups=4,
        offsets=16,
        flow=(8, 8, 8, 8),
    ),
}
"""By name, the smallest last."""
OURS = ("small", "tiny")
"""Those that no paper has; they begin with weights of a classical codec."""
