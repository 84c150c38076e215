"""Whether a program can be carried out on a bundle's graphs: asked once, before a frame is read.

The program is followed with names alone, as `lvc.program` would run it: behind an I frame and
behind whatever that leads to. Each name has one shape wherever it stands.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .program import Step, latent_of
from .rules import within

LATENT_STRIDE, HYPER_STRIDE = 16, 64
"""Of a latent or hyper latent that no graph has as an input, and so does not state."""
KEPT = ("feature", "latent", "motion_latent")
"""What the next frame finds, as previous_ and its name, beside the picture."""


@dataclass(frozen=True)
class Shape:
    """Shape of a tensor (1, channels, height / stride, width / stride)."""

    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels} channels at 1/{self.stride} of the size"


@dataclass(frozen=True)
class Wiring:
    """Graphs as bundle.json lists them, by name, and the program that is to run them.

    `tables`, `quantisers`: by stream for how many channels entropy.json has one. `before`: what the
    program is first started with, {"reference"}, or nothing for I frames. Making a wiring raises
    ValueError where the program does not fit.
    """

    graphs: Mapping[str, Mapping]
    steps: Sequence[Step]
    tables: Mapping[str, int]
    quantisers: Mapping[str, int]
    before: Collection[str]
    shapes: dict[str, Shape] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._note("frame", Shape(3, 1))
        self._note("reference", Shape(3, 1))
        for name, graph in self.graphs.items():
            with within(f"graph {name}"):
                self._note_inputs(name, graph)
        for number, step in enumerate(self.steps):
            with within(_where(number, step)):
                self._note_step(step)
        before, seen = frozenset(self.before), set()
        while before not in seen:
            seen.add(before)
            after = self._follow(before)
            before = after if self.before else before  # I frames start from nothing, all of them

    def used(self) -> list[str]:
        """The graphs that the program runs."""
        named = {name for step in self.steps for name in _graphs_of(step)}
        return [name for name in self.graphs if name in named]

    # ------------------------------------------------------------------ shapes

    def _note(self, name: str, shape: Shape) -> None:
        if (known := self.shapes.setdefault(name, shape)) != shape:
            raise ValueError(f"{name} has {shape} here and {known} elsewhere")

    def _note_inputs(self, graph_name: str, graph: Mapping) -> None:
        for name, given in graph["inputs"].items():
            stride = given.get("stride") or self._stride_of_positions(graph_name)
            shape = Shape(given["channels"], stride)
            name = tensor_of(graph, name)
            self._note(name, shape)
            if name.startswith("previous_"):
                self._note(name.removeprefix("previous_"), shape)

    def _stride_of_positions(self, graph_name: str) -> int:
        """A graph of positions states none: it is that of the latent which is read by it."""
        read = [latent_of(step.name) for step in self.steps if step.graph == graph_name]
        inputs = [graph["inputs"] for graph in self.graphs.values() if not graph.get("positions")]
        stated = [given[name]["stride"] for name in read for given in inputs if name in given]
        return stated[0] if stated else LATENT_STRIDE

    def _note_step(self, step: Step) -> None:
        if step.kind == "first":
            self._note(step.name, Shape(3 * step.copies, 1))
        elif step.kind == "hyper":
            name = f"{step.name}_hyper"
            channels = self._told("hyper", "tables", step, name, self.tables)
            self._note(name, Shape(channels, self._stride(name) or HYPER_STRIDE))
        elif step.kind != "run":
            latent = latent_of(step.name)
            if latent not in self.shapes:
                raise ValueError(f"no graph has {latent} as an input")
            shape = self.shapes[latent]
            for name in (latent, *_expected(step), *_yielded(step)):
                self._note(name, shape)
            if step.kind == "fields":
                self._note(f"{step.name}_first", shape)
                self._told("quantisers", "factors", step, latent, self.quantisers)

    def _told(self, key: str, what: str, step: Step, name: str, given: Mapping[str, int]) -> int:
        """The number of channels that entropy.json has tables or factors of."""
        where = f"entropy.json: {key}"
        if (found := given.get(step.name)) is None:
            raise ValueError(f"{where}: there is none of {step.name}")
        if name in self.shapes and (wanted := self.shapes[name].channels) != found:
            raise ValueError(
                f"{where}.{step.name}: {found} {what} for the {wanted} channels of {name}"
            )
        return found

    # ------------------------------------------------------------------ the flow

    def _follow(self, before: frozenset[str]) -> frozenset[str]:
        """What a frame leaves to the next one, of what was there before it."""
        behind_intra = not any(name.startswith("previous_") for name in before)
        known = set(before)
        for number, step in enumerate(self.steps):
            with within(_where(number, step)):
                known |= self._made(step, known, behind_intra)
        if "frame" not in known:
            raise ValueError("the program makes no frame")
        return frozenset({"reference", *(f"previous_{name}" for name in KEPT if name in known)})

    def _made(self, step: Step, known: set[str], behind_intra: bool) -> set[str]:
        """The tensors that a step makes of those that are known."""
        if step.kind == "first":
            if behind_intra:
                _need(["reference"], known)
            return {step.name} if behind_intra else set()
        if step.kind == "hyper":
            return {f"{step.name}_hyper"}
        if step.kind == "run":
            return self._run(step, known, behind_intra)
        _need(_expected(step), known)
        if step.kind == "waves":
            stride = self._stride(latent_of(step.name))
            at_latents = {n for n in known if self._stride(n) == stride}
            graph = self._graph(step.graph, positions=True)
            _need(graph["inputs"], at_latents | {f"{latent_of(step.name)}_patch"})
            _need(_yielded(step), graph["outputs"])
        if step.kind == "fields":
            graph = self._graph(step.graph)
            _need(graph["inputs"], known | {f"{step.name}_first"})
            _need(_yielded(step), graph["outputs"])
        return {latent_of(step.name)}

    def _run(self, step: Step, known: set[str], behind_intra: bool) -> set[str]:
        graphs = {name: self._graph(name) for name in _graphs_of(step)}
        graph = graphs[step.after_intra if behind_intra and step.after_intra else step.name]
        # Behind an I frame the latents of the frame before are zero.
        zero = {name for name in graph["inputs"] if behind_intra and self._is_latent_before(name)}
        _need(graph["inputs"], known | zero)
        return set(graph["outputs"])

    def _is_latent_before(self, name: str) -> bool:
        read = {latent_of(step.name) for step in self.steps if step.kind not in ("first", "run")}
        at_latents = self._stride(name) == LATENT_STRIDE
        before = name.startswith("previous_")
        return before and (at_latents or name.removeprefix("previous_") in read)

    def _stride(self, name: str) -> int | None:
        return self.shapes[name].stride if name in self.shapes else None

    def _graph(self, name: str, positions: bool = False) -> Mapping:
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


def _graphs_of(step: Step) -> list[str]:
    if step.kind == "run":
        return [step.name, *([step.after_intra] if step.after_intra else [])]
    return [step.graph] if step.kind in ("waves", "fields") else []


def _expected(step: Step) -> list[str]:
    """The tensors that a step that reads a latent finds."""
    parts = {"plain": ("mean", "scale"), "fields": ("mean", "scale", "step")}
    return [f"{step.name}_{part}" for part in parts.get(step.kind, ())]


def _yielded(step: Step) -> list[str]:
    """The tensors that a step wants of its own graph."""
    parts = {"waves": ("mean", "scale"), "fields": ("second_mean", "second_scale")}
    return [f"{step.name}_{part}" for part in parts.get(step.kind, ())]


def _need(names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"nothing has made {name}")
