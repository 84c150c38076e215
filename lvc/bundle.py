"""ONNX bundles: what is in their folder, and how they run (`lvc.program.Networks`)."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lvc.errors import UserError
from lvc.indices import MARGIN
from lvc.program import Step, Tensors
from lvc.rates import rate_factor
from lvc.tables import PRECISION, Table

BUNDLE, ENTROPY = "bundle.json", "entropy.json"
FORMAT = "leanvc-bundle-2"


def read_bundle(folder: str | Path) -> dict:
    """bundle.json of a folder, every file's hash checked. UserError where it is not whole."""
    path = Path(folder) / BUNDLE
    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
        if bundle["format"] != FORMAT:
            raise UserError(f"{path}: its format is {bundle['format']!r}; {FORMAT} can be read")
        parts = [*bundle["graphs"], *([bundle["coding"]["entropy"]] if bundle["coding"] else [])]
        expected = {path.parent / part["file"]: part["sha256"] for part in parts}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a readable bundle ({reason})") from error
    for file, digest in expected.items():
        if not file.is_file() or file_hash(file) != digest:
            raise UserError(f"{file}: missing, or not the file that bundle.json was written for")
    return bundle


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def session(path: str | Path, threads: int = 0, provider: str = "CPUExecutionProvider"):  # noqa: ANN201
    """An onnxruntime session on one provider; denormals count as zero.

    In this thread from then on they do so everywhere (torch: `torch.set_flush_denormal(False)`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Trained weights leave denormal activations, which are up to a hundred times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    _register_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=[provider])


@functools.cache
def _register_arena() -> None:
    """One CPU arena for all sessions that grows by what is asked for.

    The default one grows by powers of two: graphs of 1920x1088 that need 3 GiB took more than 20.
    """
    import onnxruntime as ort

    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    same_as_requested = ort.OrtArenaCfg(0, 1, -1, -1)
    ort.create_and_register_allocator(memory, same_as_requested)


class BundleNetworks:
    """A bundle's graphs, run by onnxruntime, and its tables."""

    def __init__(
        self,
        folder: str | Path,
        margin: float = MARGIN,
        threads: int = 0,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        folder = Path(folder)
        self.bundle, self.margin = read_bundle(folder), margin
        coding = self.bundle["coding"]
        if not coding:
            raise UserError(f"{folder}: its codec has no program to decode with")
        try:
            self.identity = coding["weights"]
            self.steps = tuple(Step(**step) for step in coding["steps"])
            entropy = json.loads((folder / coding["entropy"]["file"]).read_text(encoding="utf-8"))
            self._tables = {
                stream: [_table(one) for one in tables]
                for stream, tables in entropy["hyper"].items()
            }
            self._quantisers = {
                stream: {part: np.array(values, np.float32) for part, values in parts.items()}
                for stream, parts in entropy["quantisers"].items()
            }
            self._entries = {entry["name"]: entry for entry in self.bundle["graphs"]}
            self._channels = {
                name: spec["channels"]
                for entry in self.bundle["graphs"]
                for name, spec in entry["inputs"].items()
            }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{folder / BUNDLE}: not a readable bundle ({error})") from error
        self._open = functools.cache(
            lambda name: session(folder / self._entries[name]["file"], threads, provider)
        )

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        entry = self._entries[graph]
        given = {name: np.ascontiguousarray(inputs[name], np.float32) for name in entry["inputs"]}
        return dict(zip(entry["outputs"], self._open(graph).run(None, given), strict=True))

    def channels(self, name: str) -> int:
        return self._channels[name]

    def hyper_tables(self, stream: str) -> Sequence[Table]:
        return self._tables[stream]

    def quantiser(self, stream: str, rate: float | None) -> np.ndarray:
        parts = self._quantisers[stream]
        return parts["basic"].reshape(1, -1, 1, 1) * rate_factor(parts["points"], rate)


def _table(content: dict) -> Table:
    frequencies = np.array(content["frequencies"], np.int64)
    if frequencies.ndim != 1 or frequencies.min() < 1 or frequencies.sum() != 1 << PRECISION:
        raise ValueError("a table's frequencies do not add up")
    return Table(frequencies, int(content["first"]))
