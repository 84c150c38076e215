"""Why a graph cannot be exported, in one line: the operation, where it stands, the way out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vcodecs import UserError

_OPERATION = re.compile(
    r"(?:op='|target=torch\.ops\.|OpOverload for |ops\.)((?:aten|prims|torchvision)[.:]+\w+)"
)
_PLACE = re.compile(r'File:? "?([^"\n]+?\.py)"?(?::|, line )(\d+),? in (\w+)')
_WAYS_OUT = {
    "clamp": "give clamp bounds of one type, such as clamp(0.1, 50.0)",
    "scaled_dot_product_attention": (
        "give it four dimensions (batch, heads, length, channels), or write "
        "softmax(q @ k.transpose(-2, -1) * scale, -1) @ v"
    ),
    "": "write it with operations that ONNX has (opset 20)",
}
_BRANCH = "a branch on the values of tensors: write it with torch.where"
KEPT = (UserError, MemoryError, torch.OutOfMemoryError, OSError)
"""Exceptions that say already what is wrong."""


@contextmanager
def explained(graph: str) -> Iterator[None]:
    """An exception of torch's exporter or of onnxruntime becomes one line about `graph`."""
    try:
        yield
    except KEPT:
        raise
    except Exception as error:  # the exporter lets anything through that a codec's code raises
        raise UserError(f"graph {graph} cannot be exported to ONNX: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The operation, torch's own words for it, its place in the codec, and what to write instead.

    Exceptions are gone through from the outside inwards: the innermost says best what is wrong,
    those around it where that was.
    """
    said = [str(link) for link in _chain(error)]
    names = {type(link).__name__ for link in _chain(error)}
    if "GuardOnDataDependentSymNode" in names or "UserError" in names:
        return f"{_BRANCH}{_place(said)} ({_first_line(said[-1])})"
    found = (match for text in reversed(said) for match in _OPERATION.findall(text))
    operation = next(found, "").replace("::", ".")
    way = _WAYS_OUT.get(operation.partition(".")[2], _WAYS_OUT[""])
    what = operation or "an operation"
    return f"{what}{_place(said)}: {_first_line(said[-1])}; {way}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _place(said: list[str]) -> str:
    """Where in the codec's own code, as far as the exporter tells."""
    for text in said:
        own = [m for m in _PLACE.findall(text) if not re.search(r"/(torch|vcodecs|codecs)/", m[0])]
        if own:
            file, line, _ = own[-1]
            return f" ({file}:{line})"
    return ""


def _first_line(text: str) -> str:
    """The first line that says something, without colours, at most 200 characters."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    line = next((part.strip() for part in plain.splitlines() if part.strip()), "no reason given")
    line = line.removesuffix(" Tried overloads:")  # a list of them follows
    return line if len(line) <= 200 else f"{line[:197]}..."
