"""One line for what torch's exporter or onnxruntime says in a hundred."""

import re
from pathlib import Path

import torch

from lvc.errors import UserError

WAYS = {
    "clamp": "give both bounds as numbers of one kind, as clamp(0.1, 50.0)",
    "clip": "give both bounds as numbers of one kind, as clip(0.1, 50.0)",
    "scaled_dot_product_attention": "give it tensors (N, heads, L, E), with one head where "
    "there are none: q[:, None]",
    "item": "a branch on values cannot be exported: compute both and choose by torch.where",
}
"""By operation, a way out that is known."""
OTHERWISE = "write it of operations that ONNX has, or keep it out of the decoder's graphs"


def refusal(graph: str, error: BaseException) -> UserError:
    """An error that names the graph, the operation, the line of the codec, and a way out."""
    said = "\n".join(_chain(error))
    operation = _operation(said)
    line = _line(said)
    named = f"torch's {operation}" if operation else "something in it"
    return UserError(
        f"graph {graph}: {named}{f' ({line})' if line else ''} cannot be exported to ONNX: "
        f"{WAYS.get(operation, OTHERWISE)} ({_first_reason(said)})"
    )


def cannot_run(graph: str, error: BaseException) -> UserError:
    """An error of onnxruntime's own with a graph that torch did export."""
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(f"graph {graph}: onnxruntime cannot run it: {first[:200]}")


def _chain(error: BaseException | None) -> list[str]:
    found: list[str] = []
    while error is not None and len(found) < 8:
        found.append(str(error))
        error = error.__cause__ or error.__context__
    return found


def _operation(said: str) -> str:
    if "data-dependent" in said:
        return "item"
    found = re.findall(r"target=torch\.ops\.aten\.(\w+)|OpOverload for aten\.(\w+)", said)
    names = [name for pair in found for name in pair if name]
    return names[0].removeprefix("_") if names else ""


def _line(said: str) -> str:
    """The last line of code that is not torch's own, as FILE:LINE."""
    own = str(Path(torch.__file__).parent)
    found = re.findall(r"File:? \"?([^\"\n]+?\.py)\"?(?:, line |:)(\d+)", said)
    places = [f"{Path(file).name}:{line}" for file, line in found if not file.startswith(own)]
    return places[-1] if places else ""


def _first_reason(said: str) -> str:
    """The first line of the exporter's own summary."""
    summary = said.partition("## Exception summary")[2] or said
    lines = [line.strip() for line in summary.splitlines() if line.strip()]
    return re.sub(r"^<class '[\w.]+'>: ", "", lines[0])[:160] if lines else "no reason given"
