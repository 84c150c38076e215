"""All kinds of steps by their names in bundles."""

from collections.abc import Sequence

from .latents import Checkerboard, Plain, Quarters, Relative, Waves
from .steps import Factor, First, Hyper, Keep, Level, Run, Step, StepKind

KEPT = ("feature", "latent", "motion_latent")
"""Tensors that every program keeps for the next frame where they are made."""

KINDS: dict[str, type[StepKind]] = {
    "first": First,
    "factor": Factor,
    "level": Level,
    "run": Run,
    "hyper": Hyper,
    "plain": Plain,
    "relative": Relative,
    "waves": Waves,
    "checkerboard": Checkerboard,
    "fields": Checkerboard,
    "quarters": Quarters,
    "keep": Keep,
}


def kind_of(step: Step) -> StepKind:
    """The step with what its kind does."""
    return KINDS[step.kind](step)


def kept_by(steps: Sequence[Step]) -> list[str]:
    """The tensors that the next frame finds where they are made, as previous_ and their names."""
    return [*KEPT, *(name for step in steps for name in kind_of(step).keeps())]


def takes_turns(steps: Sequence[Step]) -> bool:
    """Whether it matters how many P frames there were since the I frame."""
    return any(step.kind == "run" and step.graphs for step in steps)
