"""A video codec of one's own, from nothing, registered and pruned: `python examples/own_codec.py`.

It codes the difference to the last picture as one latent, and corrects the picture by what the
latent and the picture's own features say. Small and poor, but a codec with everything that leanvc
asks of one. It starts from weights drawn at random, and the sparse training is all that it gets:
where the sparse codec shows better pictures than the dense one, that tells nothing about pruning.
"""

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor, nn

import prune
import vcodecs
from vcodecs.contract import CodedFrame, DecoderGraph, Reference, Stage, VideoCodec, grapher
from vcodecs.entropy import LaplaceBits, noisy, rounded
from vcodecs.layers import ResBlock, SubpelConv, conv


@vcodecs.register
class Residuals(VideoCodec):
    """Presets are widths of the feature maps."""

    name = "residuals"
    presets = {"wide": 48, "narrow": 16}  # noqa: RUF012
    latent = 32
    """Channels of what is sent, at an eighth of the sides."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.preset, n = preset, self.presets[preset]
        self.encoder = nn.Sequential(
            conv(6, n, 5, 2), ResBlock(n), conv(n, n, 5, 2), ResBlock(n), conv(n, self.latent, 5, 2)
        )
        self.decoder = nn.Sequential(
            SubpelConv(self.latent, n), ResBlock(n), SubpelConv(n, n), SubpelConv(n, n)
        )
        self.features = conv(3, n, 3)
        self.correction = nn.Sequential(conv(2 * n, n, 3), ResBlock(n), conv(n, 3, 3))
        self.scales = nn.Parameter(torch.zeros(1, self.latent, 1, 1))
        self.entropy = LaplaceBits()

    def receive(self, latent: Tensor, previous: Tensor) -> Tensor:
        """What the receiver makes of a latent and its last picture."""
        known = torch.cat((self.decoder(latent), self.features(previous)), 1)
        return previous + self.correction(known)

    def code(
        self, frame: Tensor, reference: Reference, rate: float | Tensor | None, upto: str | None
    ) -> CodedFrame:
        made = self.encoder(torch.cat((frame, frame - reference.frame), 1))
        sent = rounded(made)
        counted = noisy(made) if self.training else sent
        bits = self.entropy.of_symbols(counted, self.scales.exp().expand_as(counted))
        picture = self.receive(sent, reference.frame)
        return CodedFrame(picture, Reference(picture.clamp(0, 1)), {"latent": bits})

    def decoder_modules(self) -> tuple[str, ...]:
        return ("decoder", "features", "correction")

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("joint", ("encoder", *self.decoder_modules(), "scales"), frames=2),)

    def decoder_graphs(self, height: int, width: int) -> tuple[DecoderGraph, ...]:
        inputs = {"latent": (self.latent, 8), "reference": (3, 1)}
        graph = grapher(self, height, width)
        return (graph("picture", Residuals.receive, inputs, ("frame",)),)

    def remap_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="of the sparse training")
    parser.add_argument("--preset", default="narrow", choices=Residuals.presets)
    parser.add_argument("--runs", type=int, default=0, help="timed runs on onnxruntime")
    given = parser.parse_args()
    torch.manual_seed(0)
    codec = vcodecs.create("residuals", given.preset).eval()
    plan = prune.plan(codec, budget=0.4)
    sparse = prune.sparsify(codec, plan, "procedural", given.steps, learning_rate=1e-3)
    small = prune.shrink(sparse)
    vcodecs.save(small, "residuals.safetensors")
    clips = [prune.clip(number, frames=4) for number in range(2)]
    print(prune.compare(codec, small, clips, frames=4, bits="estimated", runs=given.runs))


if __name__ == "__main__":
    main()
