"""Sizes of SlimVC, at full width and at each of its widths."""

from dataclasses import dataclass, replace

FACTORS = (0.25, 0.375, 0.5, 0.75, 1.0)
"""The widths, as parts of the full one; the rates 0 to 4."""


@dataclass(frozen=True)
class Sizes:
    """Channels at one width, by where they are.

    `latent` and `hyper`, inside the transforms and the hyper coders; `hyper_latent`; `prior`: of
    what hyper decoder and temporal prior hand over, each; `temporal` and `parameters`: inside the
    two heavy networks.
    """

    latent: int = 192
    hyper: int = 256
    hyper_latent: int = 256
    prior: int = 640
    temporal: tuple[int, int] = (426, 533)
    parameters: tuple[int, int] = (1600, 1280)


@dataclass(frozen=True)
class Widths:
    """`full`: sizes at full width. `factors`: the widths there are. `uniform`: whether what the
    entropy modules exchange is slimmed too. `unit`: sizes inside are multiples of it."""

    full: Sizes = Sizes()
    factors: tuple[float, ...] = FACTORS
    uniform: bool = False
    unit: int = 1

    def at(self, factor: float) -> Sizes:
        """The sizes at a width."""
        full = self.full

        def slim(channels: int, unit: int = self.unit) -> int:
            return max(unit, int(factor * channels / unit + 0.5) * unit)

        return Sizes(
            latent=slim(full.latent),
            hyper=slim(full.hyper),
            hyper_latent=slim(full.hyper_latent) if self.uniform else full.hyper_latent,
            prior=slim(full.prior) if self.uniform else full.prior,
            temporal=(slim(full.temporal[0]), slim(full.temporal[1])),
            parameters=(slim(full.parameters[0]), slim(full.parameters[1])),
        )

    def alone(self, factor: float) -> "Widths":
        """One of the widths by itself."""
        return replace(self, factors=(factor,))


_SLIMMABLE: dict[str, Widths] = {
    "full_interfaces": Widths(),
    "uniform": Widths(uniform=True),
    "small": Widths(Sizes(48, 64, 64, 128, (96, 112), (256, 192)), unit=4),
    "tiny": Widths(Sizes(16, 16, 16, 24, (16, 16), (24, 24)), unit=4),
}

PRESETS: dict[str, Widths] = _SLIMMABLE | {
    f"{name}@{factor:g}": widths.alone(factor)
    for name, widths in _SLIMMABLE.items()
    for factor in FACTORS
}
"""By name; NAME@WIDTH is one width of NAME as a codec by itself."""
