"""What a bundle's graphs are fed with when real clips are coded."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from lvc.bundle import BundleNetworks
from lvc.pictures import padded
from lvc.program import Tensors
from vcodecs import VideoCodec
from vcodecs.coding import TorchNetworks, compress


class Recording:
    """Networks that note what each graph is given: `inputs`, at most `most` times a graph."""

    def __init__(self, networks: BundleNetworks, most: int) -> None:
        self._networks, self._most = networks, most
        self.inputs: dict[str, list[dict[str, np.ndarray]]] = {}

    def __getattr__(self, name: str):
        return getattr(self._networks, name)

    def at(self, rate: float | None) -> "Recording":
        return self

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Tensors:
        seen = self.inputs.setdefault(graph, [])
        if len(seen) < self._most:
            names = self._networks.bundle["graphs"]
            wanted = next(entry["inputs"] for entry in names if entry["name"] == graph)
            seen.append({name: np.array(inputs[name], np.float32) for name in wanted})
        return self._networks.run(graph, inputs)


def recorded_inputs(
    codec: VideoCodec,
    receiver: BundleNetworks,
    clips: Iterable[np.ndarray],
    rates: Sequence[float | None],
    most: int = 64,
) -> dict[str, list[dict[str, np.ndarray]]]:
    """Inputs by graph while `clips`, uint8 RGB (T, 3, H, W), are coded at each of `rates`.

    `receiver`: the bundle of this codec. The first frame of a clip is taken as it is.
    """
    networks, recording = TorchNetworks(codec), Recording(receiver, most)
    for clip in clips:
        frames = [padded(frame[None].astype(np.float32) / 255, codec.multiple) for frame in clip]
        for rate in rates:
            before: Tensors = {"reference": frames[0]}
            for frame in frames[1:]:
                before = compress(
                    networks, torch.from_numpy(frame), before, rate, recording
                ).following
    return recording.inputs
