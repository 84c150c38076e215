"""Whether a program can be carried out on a bundle's graphs: asked once, before a frame is read.

The program is followed with names alone, as `lvc.program` would run it: behind an I frame and
behind whatever that leads to. Each name has one shape wherever it stands.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .frame import LATENT_STRIDE
from .kinds import kept_by, kind_of
from .rules import within
from .steps import Step, latent_of


@dataclass(frozen=True)
class Shape:
    """Shape of a tensor (1, channels, height / stride, width / stride); with stride 0 it is
    (1, channels, 1, 1) at any size."""

    channels: int
    stride: int

    def __str__(self) -> str:
        if not self.stride:
            return f"{self.channels} channels of one number each"
        return f"{self.channels} channels at 1/{self.stride} of the size"


@dataclass(frozen=True)
class Wiring:
    """Graphs as bundle.json lists them, by name, and the program that is to run them.

    `tables`, `quantisers`: by stream for how many channels entropy.json has one. `before`: what the
    program is first started with, {"reference"}, or nothing for I frames. `factors`: the tensors
    that entropy.json has the rate points' factors of. Making a wiring raises ValueError where the
    program does not fit.
    """

    graphs: Mapping[str, Mapping]
    steps: Sequence[Step]
    tables: Mapping[str, int]
    quantisers: Mapping[str, int]
    before: Collection[str]
    factors: Collection[str] = ()
    shapes: dict[str, Shape] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.note("frame", 3, 1)
        self.note("reference", 3, 1)
        for name, graph in self.graphs.items():
            with within(f"graph {name}"):
                self._note_inputs(name, graph)
        for number, step in enumerate(self.steps):
            with within(_where(number, step)):
                kind_of(step).note(self)
        before, seen = frozenset(self.before), set()
        while before not in seen:
            seen.add(before)
            after = self._follow(before)
            before = after if self.before else before  # I frames start from nothing, all of them

    def used(self) -> list[str]:
        """The graphs that the program runs."""
        named = {name for step in self.steps for name in kind_of(step).graphs()}
        return [name for name in self.graphs if name in named]

    # ------------------------------------------------------------------ shapes

    def note(self, name: str, channels: int, stride: int) -> None:
        """A tensor's shape; ValueError where it has another one elsewhere."""
        shape = Shape(channels, stride)
        if (known := self.shapes.setdefault(name, shape)) != shape:
            raise ValueError(f"{name} has {shape} here and {known} elsewhere")

    def _note_inputs(self, graph_name: str, graph: Mapping) -> None:
        if not graph.get("positions") and not any(i["stride"] for i in graph["inputs"].values()):
            raise ValueError("no input has the frame's size")
        for name, given in graph["inputs"].items():
            # 0 is a stride as well.
            stated = given.get("stride")
            stride = self._stride_of_positions(graph_name) if stated is None else stated
            shape = given["channels"], stride
            name = tensor_of(graph, name)
            self.note(name, *shape)
            if name.startswith("previous_"):
                self.note(name.removeprefix("previous_"), *shape)

    def _stride_of_positions(self, graph_name: str) -> int:
        """A graph of positions states none: it is that of the latent which is read by it."""
        read = [latent_of(step.name) for step in self.steps if step.graph == graph_name]
        inputs = [graph["inputs"] for graph in self.graphs.values() if not graph.get("positions")]
        stated = [given[name]["stride"] for name in read for given in inputs if name in given]
        return stated[0] if stated else LATENT_STRIDE

    def latent_shape(self, latent: str) -> Shape:
        """That of a latent which some graph reads; ValueError where none does."""
        if latent not in self.shapes:
            raise ValueError(f"no graph has {latent} as an input")
        return self.shapes[latent]

    def told(self, key: str, what: str, stream: str, name: str, given: Mapping[str, int]) -> int:
        """The number of channels of `name` that entropy.json has tables or factors of."""
        where = f"entropy.json: {key}"
        if (found := given.get(stream)) is None:
            raise ValueError(f"{where}: there is none of {stream}")
        if name in self.shapes and (wanted := self.shapes[name].channels) != found:
            raise ValueError(
                f"{where}.{stream}: {found} {what} for the {wanted} channels of {name}"
            )
        return found

    def stride(self, name: str) -> int | None:
        """The stride of a tensor, where it is known."""
        return self.shapes[name].stride if name in self.shapes else None

    def is_latent_before(self, name: str) -> bool:
        """Whether it is a latent of the frame before, which behind an I frame is zero."""
        read = {latent_of(step.name) for step in self.steps if step.kind not in ("first", "run")}
        latent = name.removeprefix("previous_")
        return latent != name and (latent in read or self.stride(name) == LATENT_STRIDE)

    # ------------------------------------------------------------------ the flow

    def _follow(self, before: frozenset[str]) -> frozenset[str]:
        """The tensors that a frame leaves to the next one, of those that were there before it."""
        behind_intra = not any(name.startswith("previous_") for name in before)
        known = set(before)
        for number, step in enumerate(self.steps):
            with within(_where(number, step)):
                known |= kind_of(step).made(self, known, behind_intra)
        if "frame" not in known:
            raise ValueError("the program makes no frame")
        kept = kept_by(self.steps)
        return frozenset({"reference", *(f"previous_{name}" for name in kept if name in known)})

    def graph(self, name: str, positions: bool = False) -> Mapping:
        """The graph of this name, one of single positions or not; else ValueError."""
        if name not in self.graphs:
            raise ValueError(f"there is no graph {name!r}")
        if bool(self.graphs[name].get("positions")) != positions:
            kind = "no graph" if positions else "a graph"
            raise ValueError(f"{name!r} is {kind} of positions")
        return self.graphs[name]


def tensor_of(graph: Mapping, name: str) -> str:
    """The tensor that a graph's input or output is, or is cut out of."""
    return name.removesuffix("_patch") if graph.get("positions") else name


def _where(number: int, step: Step) -> str:
    return f"steps[{number}] ({step.kind} {step.name})"
