"""The networks of FVC, with the official names and activations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcodecs.deform import DeformableConv
from vcodecs.layers import conv, deconv


class FeatureBlock(nn.Module):
    """x + conv2(relu(conv1(x)))."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, kernel)
        self.conv2 = conv(channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class Resblocks(nn.Module):
    """Three residual blocks and a skip around them all."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.res1 = FeatureBlock(channels, kernel)
        self.res2 = FeatureBlock(channels, kernel)
        self.res3 = FeatureBlock(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res3(self.res2(self.res1(x)))


class FeatureEncoder(nn.Module):
    """A picture to features of half its size."""

    def __init__(self, feature: int) -> None:
        super().__init__()
        self.conv1 = conv(3, feature, 5, 2)
        self.feature_extraction = Resblocks(feature)

    def forward(self, picture: Tensor) -> Tensor:
        return self.feature_extraction(self.conv1(picture))


class FeatureDecoder(nn.Module):
    """Features to the picture of twice their size."""

    def __init__(self, feature: int) -> None:
        super().__init__()
        self.recon_trunk = Resblocks(feature)
        self.deconv1 = deconv(feature, 3, 5)

    def forward(self, feature: Tensor) -> Tensor:
        return self.deconv1(self.recon_trunk(feature))


class Analysis(nn.Module):
    """Features to a latent of 1/8 of their size.

    The official network pads odd sides before its last convolution; frames padded to multiples of
    64 have none.
    """

    def __init__(self, feature: int, width: int, latent: int) -> None:
        super().__init__()
        self.conv1 = conv(feature, width, 5, 2)
        self.res1 = Resblocks(width)
        self.conv2 = conv(width, width, 5, 2)
        self.res2 = Resblocks(width)
        self.conv3 = conv(width, latent, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.res2(self.conv2(self.res1(self.conv1(x)))))


class Synthesis(nn.Module):
    """A latent to features of 8 times its size."""

    def __init__(self, latent: int, width: int, feature: int) -> None:
        super().__init__()
        self.deconv1 = deconv(latent, width, 5)
        self.res1 = Resblocks(width)
        self.deconv2 = deconv(width, width, 5)
        self.res2 = Resblocks(width)
        self.deconv3 = deconv(width, feature, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.deconv3(self.res2(self.deconv2(self.res1(self.deconv1(x)))))


class Aligner(nn.Module):
    """Motion as offsets: estimated and encoded by the sender, decoded and applied at both ends.

    `encoder`, `decoder`: channels of the layers before and behind the latent.
    """

    def __init__(self, feature: int, encoder: int, latent: int, decoder: int) -> None:
        super().__init__()
        self.offset_conv1 = conv(2 * feature, feature, 3)
        self.offset_conv3 = conv(feature, feature, 3)
        self.offset_encoder = Analysis(feature, encoder, latent)
        self.offset_decoder = Synthesis(latent, decoder, feature)
        self.deformable_convolution = DeformableConv(feature)
        self.refine_conv1 = conv(2 * feature, feature, 3)
        self.refine_conv2 = conv(feature, feature, 3)

    def encode(self, before: Tensor, now: Tensor) -> Tensor:
        """The motion latent between the reference's features and the frame's."""
        x = F.leaky_relu(self.offset_conv1(torch.cat((before, now), dim=1)), 0.1)
        return self.offset_encoder(F.leaky_relu(self.offset_conv3(x), 0.1))

    def align(self, before: Tensor, latent: Tensor) -> Tensor:
        """The reference's features, moved by the decoded motion and refined."""
        moved = self.deformable_convolution(before, self.offset_decoder(latent))
        x = F.leaky_relu(self.refine_conv1(torch.cat((moved, before), dim=1)), 0.1)
        return moved + F.leaky_relu(self.refine_conv2(x), 0.1)


class HyperEncoder(nn.Module):
    """A latent to its hyper latent, 1/4 of the size."""

    def __init__(self, latent: int, hyper: int) -> None:
        super().__init__()
        self.conv1 = conv(latent, hyper, 3)
        self.conv2 = conv(hyper, hyper, 5, 2)
        self.conv3 = conv(hyper, hyper, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.2)
        return self.conv3(F.leaky_relu(self.conv2(x), 0.2))


class HyperDecoder(nn.Module):
    """A hyper latent to a prior of twice the latent's channels, 4 times the size."""

    def __init__(self, hyper: int, latent: int) -> None:
        super().__init__()
        wide = hyper * 3 // 2
        self.deconv1 = deconv(hyper, hyper, 5)
        self.deconv2 = deconv(hyper, wide, 5)
        self.deconv3 = deconv(wide, 2 * latent, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.deconv1(x), 0.2)
        return self.deconv3(F.leaky_relu(self.deconv2(x), 0.2))


class ParameterNetwork(nn.Module):
    """A 1x1 network from a prior to as many channels of means and deviations' square roots."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, hidden, 1)
        self.conv2 = conv(hidden, hidden, 1)
        self.res0 = Resblocks(hidden, kernel=1)
        self.conv3 = conv(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.1)
        return self.conv3(self.res0(F.leaky_relu(self.conv2(x), 0.1)))


class EntropyParameters(nn.Module):
    """Means and standard deviations of a latent from its hyperprior."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.parameters_net = ParameterNetwork(2 * latent, hidden)

    def forward(self, prior: Tensor) -> tuple[Tensor, Tensor]:
        mean, root = self.parameters_net(prior).chunk(2, 1)
        return mean, root.square()
