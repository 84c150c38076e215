"""A codec with real bits whose latent and hyper latent lie wherever a test wants them."""

import torch
from torch import nn

from lvc.program import Step
from vcodecs.contract import CodedFrame, Coding, Reference, Stage, VideoCodec, grapher
from vcodecs.entropy import BitEstimator


class Strided(VideoCodec):
    """`block`, inside the decoder, is for what a test is about."""

    name, presets = "strided", {"tiny": None}
    latent_stride, hyper_stride = 16, 64

    def __init__(self, preset="tiny"):
        super().__init__()
        self.preset = preset
        low, high = self.latent_stride, self.hyper_stride
        self.encoder = nn.Conv2d(3, 6, low, low)
        self.head, self.block = nn.Conv2d(6, 8, 3, padding=1), self.make_block()
        self.tail = nn.ConvTranspose2d(8, 3, low, low)
        self.down = nn.Conv2d(6, 4, high // low, high // low)
        self.up = nn.ConvTranspose2d(4, 12, high // low, high // low)
        self.prior = BitEstimator(4)

    def make_block(self):
        return nn.LeakyReLU(0.1)

    def picture(self, latent, reference):
        return reference + self.tail(self.block(self.head(latent)))

    def parameters_of(self, hyper):
        mean, scale = self.up(hyper).chunk(2, 1)
        return mean, scale.exp()

    def code(self, frame, reference, rate, upto):
        latent = self.encoder(frame - reference.frame)
        latent = latent + (torch.round(latent) - latent).detach()
        hyper = self.down(latent)
        mean, scale = self.parameters_of(hyper + (torch.round(hyper) - hyper).detach())
        picture = self.picture(latent, reference.frame)
        bits = ((latent - mean) / scale).abs().flatten(1).sum(1)
        return CodedFrame(picture, Reference(picture), {"latent": bits})

    def decoder_modules(self):
        return ("up", "head", "block", "tail")

    def stages(self):
        return (Stage("joint", ("encoder", "down", "prior", *self.decoder_modules())),)

    def remap_official(self, state):
        return dict(state)

    def coding(self):
        def analyse(stream, frame, tensors, rate):
            latent = self.encoder(frame - tensors["reference"])
            return latent, self.down(latent)

        steps = (
            Step("hyper", "latent"),
            Step("run", "prior"),
            Step("plain", "latent"),
            Step("run", "picture"),
        )
        return Coding(steps, {"latent": self.prior}, analyse)

    def decoder_graphs(self, height, width):
        graph = grapher(self, height, width)
        latent, hyper = (6, self.latent_stride), (4, self.hyper_stride)
        return (
            graph(
                "prior",
                lambda codec, z: codec.parameters_of(z),
                {"latent_hyper": hyper},
                ("latent_mean", "latent_scale"),
            ),
            graph(
                "picture",
                lambda codec, y, r: codec.picture(y, r),
                {"latent": latent, "reference": (3, 1)},
                ("frame",),
            ),
        )


class Clamped(Strided):
    """An operation that torch.onnx does not translate."""

    name = "clamped"

    def make_block(self):
        return Clamp()


class Clamp(nn.Module):
    def forward(self, x):
        return x.clamp(-0.5, 50)
