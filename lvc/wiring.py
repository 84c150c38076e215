"""Whether a program can be carried out on a bundle's graphs: asked once, before a frame is read.

The program is followed with names alone, as `lvc.program` would run it: behind an I frame and
behind whatever that leads to. Each name has one shape wherever it stands.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .rules import within
from .steps import ORDINALS, Step, kept_by, known_of, latent_of, later_graphs

LATENT_STRIDE, HYPER_STRIDE = 16, 64
PARTS = ("mean", "scale")


@dataclass(frozen=True)
class Shape:
    """Shape of a tensor (1, channels, height / stride, width / stride); (1, channels, 1, 1) with
    stride 0."""

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
    program is first started with, {"reference"}, or nothing for I frames. `factors`: of which
    tensors entropy.json has the rate points' factors. Making a wiring raises ValueError where the
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
        self._note("frame", Shape(3, 1))
        self._note("reference", Shape(3, 1))
        for name, graph in self.graphs.items():
            with within(f"graph {name}"):
                self._note_inputs(graph)
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

    def _note_inputs(self, graph: Mapping) -> None:
        if not graph.get("positions") and not any(i["stride"] for i in graph["inputs"].values()):
            raise ValueError("no input has the frame's size")
        for name, given in graph["inputs"].items():
            shape = Shape(given["channels"], given.get("stride", LATENT_STRIDE))
            name = tensor_of(graph, name)
            self._note(name, shape)
            if name.startswith("previous_"):
                self._note(name.removeprefix("previous_"), shape)

    def _note_step(self, step: Step) -> None:
        if step.kind == "first":
            self._note(step.name, Shape(3 * step.copies, 1))
        elif step.kind == "hyper":
            channels = self._told("hyper", "tables", step, f"{step.name}_hyper", self.tables)
            self._note(f"{step.name}_hyper", Shape(channels, HYPER_STRIDE))
        elif step.kind == "factor":
            if step.name not in self.factors:
                raise ValueError(f"entropy.json: factors: there is none of {step.name}")
            self._note(step.name, Shape(1, 0))
        elif step.kind == "keep":
            kept = f"previous_{step.name}"
            for name, other in ((step.name, kept), (kept, step.name)):
                if name in self.shapes:
                    self._note(other, self.shapes[name])
        elif step.kind != "run":
            latent = latent_of(step.name)
            if latent not in self.shapes:
                raise ValueError(f"no graph has {latent} as an input")
            shape = Shape(self.shapes[latent].channels, LATENT_STRIDE)
            for name in (latent, *_expected(step), *_yielded(step)):
                self._note(name, shape)
            if step.kind in ("fields", "quarters"):
                self._note(known_of(step), shape)
            if step.kind == "quarters" and len(step.graphs) != len(ORDINALS):
                raise ValueError(f"it has {len(step.graphs)} graphs, not {len(ORDINALS)}")
            if step.kind == "fields":
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
        kept = kept_by(self.steps)
        return frozenset({"reference", *(f"previous_{name}" for name in kept if name in known)})

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
        if step.kind == "factor":
            return {step.name}
        if step.kind == "keep":
            _need([step.name], known)
            return set()
        _need(_expected(step), known)
        if step.kind == "waves":
            at_latents = {n for n in known if self._stride(n) == LATENT_STRIDE}
            graph = self._graph(step.graph, positions=True)
            _need(graph["inputs"], at_latents | {f"{latent_of(step.name)}_patch"})
            _need(_yielded(step), graph["outputs"])
        for name, ordinal in later_graphs(step) if step.kind in ("fields", "quarters") else ():
            graph = self._graph(name)
            _need(graph["inputs"], known | {known_of(step)})
            _need([f"{step.name}_{ordinal}_{part}" for part in PARTS], graph["outputs"])
        return {latent_of(step.name)}

    def _run(self, step: Step, known: set[str], behind_intra: bool) -> set[str]:
        graphs = {name: self._graph(name) for name in _graphs_of(step)}
        if behind_intra and step.after_intra:
            names: Sequence[str] = [step.after_intra]
        else:
            names = step.graphs or [step.name]
        # What a frame finds has to be there whichever of them had its turn.
        made = [self._yield(graphs[name], known, behind_intra) for name in names]
        return set.intersection(*made)

    def _yield(self, graph: Mapping, known: set[str], behind_intra: bool) -> set[str]:
        """A graph's outputs, where everything that it needs is there."""
        # Behind an I frame the latents of the frame before are zero.
        zero = {
            name
            for name in graph["inputs"]
            if behind_intra and name.startswith("previous_") and self._stride(name) == LATENT_STRIDE
        }
        _need(graph["inputs"], known | zero)
        return set(graph["outputs"])

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
        after = [step.after_intra] if step.after_intra else []
        return [*(step.graphs or [step.name]), *after]
    if step.kind == "quarters":
        return [*step.graphs]
    return [step.graph] if step.kind in ("waves", "fields") else []


def _expected(step: Step) -> list[str]:
    """The tensors that a step that reads a latent finds."""
    parts = {"plain": PARTS, "fields": (*PARTS, "step"), "quarters": (*PARTS, "step")}
    return [f"{step.name}_{part}" for part in parts.get(step.kind, ())]


def _yielded(step: Step) -> list[str]:
    """The tensors that a step wants of its own graphs."""
    if step.kind == "waves":
        return [f"{step.name}_{part}" for part in PARTS]
    if step.kind not in ("fields", "quarters"):
        return []
    ordinals = [ordinal for _, ordinal in later_graphs(step)]
    return [f"{step.name}_{ordinal}_{part}" for ordinal in ordinals for part in PARTS]


def _need(names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"nothing has made {name}")
