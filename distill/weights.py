"""Adaptive weights: effort goes to the layers whose features deviate most."""


class AdaptiveWeights:
    """Running distortion of every tap, and its share among those that a step has seen.

    With `adaptive` off all shares are equal. `momentum` in [0, 1) is that of the running mean.
    """

    def __init__(self, momentum: float = 0.9, adaptive: bool = True) -> None:
        self.momentum, self.adaptive = momentum, adaptive
        self.running: dict[str, float] = {}

    def update(self, distortions: dict[str, float]) -> None:
        """Take in a step's distortions by tap; a tap seen first starts with its own."""
        for name, value in distortions.items():
            before = self.running.get(name, value)
            self.running[name] = self.momentum * before + (1 - self.momentum) * value

    def shares(self, names: list[str]) -> dict[str, float]:
        """Weights of these taps; they sum to 1."""
        if not names:
            return {}
        if not self.adaptive:
            return dict.fromkeys(names, 1 / len(names))
        total = sum(self.running.get(name, 0.0) for name in names)
        if total <= 0:
            return dict.fromkeys(names, 1 / len(names))
        return {name: self.running.get(name, 0.0) / total for name in names}
