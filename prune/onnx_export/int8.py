"""Bundles of 8 bits: the same graphs with rounding stated in them (QDQ), by onnxruntime's tools.

Convolutions take 8-bit inputs and weights, one scale an output channel; ranges of inputs are those
that `calibration` has seen. Entropy parameters stay float32 (`lvc.binding`), and so do layers that
are named. Weights and inputs are signed: with unsigned inputs processors without VNNI add up in 16
bits, which overflow, and two machines would decode two pictures.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lvc.binding import entropy_graphs
from lvc.bundle import BUNDLE, file_hash, read_bundle
from lvc.files import atomic_write, replacing
from lvc.runtimes import Setting
from lvc.steps import Step

QUANTISED = ("Conv",)
"""Operators that are computed with 8 bits: where the MACs are, and what runtimes have kernels for.

Transposed convolutions have none in onnxruntime; sums and activations between convolutions would
round the residual streams themselves."""
OPTIONS = {"ActivationSymmetric": False, "WeightSymmetric": True, "DedicatedQDQPair": False}

Inputs = Mapping[str, np.ndarray]
Layer = tuple[str, str]
"""A graph's name and a node's."""


@dataclass(frozen=True)
class Quantiser:
    """One graph of a bundle with the ranges of its tensors."""

    path: Path
    ranges: Any = field(repr=False)

    def layers(self) -> list[str]:
        """Names of the nodes that can be computed with 8 bits."""
        return [n.name for n in _model(self.path).graph.node if n.op_type in QUANTISED]

    def write(self, layers: Collection[str], path: Path) -> None:
        """The graph with `layers` in 8 bits."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        with _quiet():
            quantiser = QDQQuantizer(
                _model(self.path),
                True,  # one scale a channel
                False,  # all 8 bits of a weight
                QuantType.QInt8,
                QuantType.QInt8,
                self.ranges,
                list(layers),
                [],
                list(QUANTISED),
                OPTIONS,
            )
            quantiser.quantize_model()
        with replacing(path) as temporary:
            onnx.save(quantiser.model.model, temporary)


def quantisers(bundle: Path, inputs: Mapping[str, Sequence[Inputs]]) -> dict[str, Quantiser]:
    """Those of the graphs that may be computed with 8 bits, calibrated on `inputs` by graph."""
    made = {}
    for name, path in _eligible(bundle).items():
        if inputs.get(name):
            quantiser = Quantiser(path, _ranges(path, inputs[name]))
            if quantiser.layers():
                made[name] = quantiser
    return made


def sensitivities(
    ready: Mapping[str, Quantiser], inputs: Mapping[str, Sequence[Inputs]]
) -> dict[Layer, float]:
    """The error that each layer makes when it alone has 8 bits, the largest first.

    Mean squared error of its graph's outputs over their mean square, on the first of `inputs`.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        for name, quantiser in ready.items():
            given = inputs[name][0]
            expected = Setting().open(quantiser.path).run(given)
            for layer in quantiser.layers():
                quantiser.write([layer], path)
                made = Setting().open(path).run(given)
                found[name, layer] = max(map(_error, made, expected))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def write_int8(
    bundle: Path, folder: Path, ready: Mapping[str, Quantiser], keep: Collection[Layer] = ()
) -> None:
    """The bundle in `folder` whose graphs have 8 bits, the layers `keep` excepted."""
    described = read_bundle(bundle)
    (folder / BUNDLE).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for entry in described["graphs"]:
        name, target = entry["name"], folder / entry["file"]
        layers = [x for x in ready[name].layers() if (name, x) not in keep] if name in ready else []
        if layers:
            ready[name].write(layers, target)
            entry |= {"sha256": file_hash(target), "precision": "int8"}
        else:
            _copy(bundle / entry["file"], target)
    if described["coding"]:
        entropy = described["coding"]["entropy"]["file"]
        _copy(bundle / entropy, folder / entropy)
    atomic_write(folder / BUNDLE, json.dumps(described, indent=2) + "\n")


def _eligible(bundle: Path) -> dict[str, Path]:
    """Graphs by name that make no entropy parameters."""
    described = read_bundle(bundle)
    graphs = {entry["name"]: entry for entry in described["graphs"]}
    steps = []
    for step in (described["coding"] or {"steps": []})["steps"]:
        steps.append(Step(**step | {"graphs": tuple(step.get("graphs", ()))}))
    kept = entropy_graphs(graphs, steps)
    return {
        name: bundle / entry["file"]
        for name, entry in graphs.items()
        if name not in kept and not entry.get("positions")
    }


class _Reader:
    """Inputs one after the other, as the tools ask for them."""

    def __init__(self, inputs: Sequence[Inputs]) -> None:
        self._left: Iterator[Inputs] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        given = next(self._left, None)
        return None if given is None else dict(given)


def _ranges(path: Path, inputs: Sequence[Inputs]) -> Any:
    """Least and largest value of each tensor that is rounded."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder, _quiet():
        calibrator = create_calibrator(
            str(path),
            list(QUANTISED),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_Reader(inputs))
        return calibrator.compute_data()


def _model(path: Path) -> onnx.ModelProto:
    """The graph with the shapes of its tensors, every node named."""
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return onnx.shape_inference.infer_shapes(model)


def _error(made: np.ndarray, expected: np.ndarray) -> float:
    power = float(np.square(expected, dtype=np.float64).mean()) or 1.0
    return float(np.square(made - expected, dtype=np.float64).mean()) / power


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools recommend preparations that these graphs have had."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
