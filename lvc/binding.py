"""Which graphs decide how a file's bits are read, and which only what is shown.

Symbols are read by tables that entropy parameters choose. A graph that these depend on, in this
frame or in a later one, is bound: a receiver has to compute it as the sender did. All others are
free; FVC, whose priors know nothing of pictures, leaves all of its pictures free.
"""

from collections.abc import Mapping, Sequence

from .kinds import kept_by, kind_of
from .steps import Step


def bound_tensors(graphs: Mapping[str, Mapping], steps: Sequence[Step]) -> set[str]:
    """The tensors that entropy parameters depend on.

    `graphs`: by name, as bundle.json lists them. "reference" among them: the frame before has to
    be the sender's.
    """
    kinds = [kind_of(step) for step in steps]
    bound = {name for kind in kinds for name in kind.reads_by()}
    for name in (name for kind in kinds for name in kind.expects_by()):
        bound |= _inputs(graphs[name])
    kept = {f"previous_{name}": name for name in kept_by(steps)} | {"reference": "frame"}
    seen: set[str] = set()
    while seen != bound:
        seen = set(bound)
        for graph in graphs.values():
            if bound & set(graph["outputs"]):
                bound |= _inputs(graph)
        for step in steps:
            if step.kind == "first" and step.name in bound:
                bound.add("reference")
        bound |= {now for before, now in kept.items() if before in bound}
    return bound


def bound_graphs(graphs: Mapping[str, Mapping], steps: Sequence[Step]) -> list[str]:
    """The names of the graphs that are bound; see `bound_tensors`."""
    return _making(bound_tensors(graphs, steps), graphs, steps)


def entropy_graphs(graphs: Mapping[str, Mapping], steps: Sequence[Step]) -> list[str]:
    """The bound graphs that make entropy parameters; these run in float32 everywhere.

    Their results are compared with a file's margin, which covers roundings of float32 alone.
    """
    parameters = {name for step in steps for name in kind_of(step).reads_by()}
    return _making(parameters, graphs, steps)


def _making(tensors: set[str], graphs: Mapping[str, Mapping], steps: Sequence[Step]) -> list[str]:
    """The graphs that make one of `tensors`, or expectations within a latent."""
    expecting = {graph for step in steps for graph in kind_of(step).expects_by()}
    return [
        name
        for name, graph in graphs.items()
        if name in expecting or tensors & set(graph["outputs"])
    ]


def _inputs(graph: Mapping) -> set[str]:
    if graph.get("positions"):
        return {name.removesuffix("_patch") for name in graph["inputs"]}
    return set(graph["inputs"])
