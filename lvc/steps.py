"""The steps of a receiver's program, and what they say about the tensors' names.

Names follow the stream ("motion", "latent"): STREAM_hyper is its hyper latent, STREAM_mean and
STREAM_scale what is expected of it, and the latent itself is called STREAM_latent, or just
"latent" for the stream of that name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .tables import Distribution

Kind = Literal["first", "factor", "run", "hyper", "plain", "waves", "fields", "quarters", "keep"]
KEPT = ("feature", "latent", "motion_latent")
"""What every program keeps for the next frame where it is made."""
POSITION = "position"
"""P frames since the I frame, for programs whose graphs take turns."""
ORDINALS = ("second", "third", "fourth")


@dataclass(frozen=True)
class Step:
    """One step of a program.

    | kind     | name   | does                                                              |
    |----------|--------|-------------------------------------------------------------------|
    | first    | tensor | behind an I frame: it is `copies` of its picture, joined           |
    | factor   | tensor | it is the rate's factor, one number                               |
    | run      | graph  | runs a graph; `after_intra` is the one behind an I frame, if other |
    | hyper    | stream | reads its hyper latent, whole numbers by channel tables           |
    | plain    | stream | reads whole numbers around STREAM_mean                            |
    | waves    | stream | reads by waves; `graph` expects each from what is left and above   |
    | fields   | stream | reads in two steps; `graph` expects the second from the first     |
    | quarters | stream | reads in four steps; `graphs` expect the others from those before |
    | keep     | tensor | the next frame finds it, as previous_ and its name                |

    "run" with `graphs` runs one of them, in turn: by the number of P frames since the I frame.
    """

    kind: Kind
    name: str
    graph: str = ""
    after_intra: str = ""
    distribution: Distribution = "laplace"
    copies: int = 1
    graphs: tuple[str, ...] = ()


def latent_of(stream: str) -> str:
    """The name of a stream's latent."""
    return "latent" if stream == "latent" else f"{stream}_latent"


def kept_by(steps: Sequence[Step]) -> list[str]:
    """What the next frame finds beside the picture, where it is made: as previous_ and its name."""
    return [*KEPT, *(step.name for step in steps if step.kind == "keep")]


def takes_turns(steps: Sequence[Step]) -> bool:
    """Whether it matters how many P frames there were since the I frame."""
    return any(step.kind == "run" and step.graphs for step in steps)


def graph_of(step: Step, behind_intra: bool, position: int) -> str:
    """The graph that a "run" step runs in the P frame of this position, from 1 on."""
    if behind_intra and step.after_intra:
        return step.after_intra
    return step.graphs[position % len(step.graphs)] if step.graphs else step.name


def known_of(step: Step) -> str:
    """What the later graphs of a latent that is read in steps find: what has been read so far."""
    return f"{step.name}_first" if step.kind == "fields" else f"{step.name}_known"


def later_graphs(step: Step) -> list[tuple[str, str]]:
    """Graphs that expect the second step and those behind it, and what their outputs are called:
    STREAM_second_mean, STREAM_second_scale, and so on."""
    graphs = (step.graph,) if step.kind == "fields" else step.graphs
    return list(zip(graphs, ORDINALS, strict=False))
