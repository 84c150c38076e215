"""Which module of a codec a layer belongs to, by their dotted names."""

from collections.abc import Iterable


def module_of(layer: str, modules: Iterable[str]) -> str | None:
    """The one of `modules` that `layer` is, or is inside of; None where it is in none."""
    homes = [name for name in modules if layer == name or layer.startswith(f"{name}.")]
    return max(homes, key=len, default=None)
