"""Prunes the decoder of an image codec of CompressAI's zoo: `python examples/compressai_image.py`.

Its synthesis transform `g_s` is no video codec, but has channels: masks with gradient decay train
along in a loop of our own, then the channels go. Without --pretrained the weights are drawn anew,
which shows how it is done, not what it is worth.
"""

import argparse

import torch
from compressai.zoo import bmshj2018_factorized

import prune
from prune.data import Procedural
from prune.measure.macs import decoder_macs
from prune.modules import ModuleCodec

CROP = 128


def pictures(count: int, number: int) -> torch.Tensor:
    """(count, 3, 128, 128) in [0, 1]: crops of synthetic clips, others for each number."""
    source = Procedural(seed=number, clips=count, height=CROP, width=CROP, frames=1)
    frames = [torch.from_numpy(source.read(i)) for i in range(count)]
    return torch.cat(frames).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--quality", type=int, default=2)
    parser.add_argument("--budget", type=float, default=0.4)
    parser.add_argument("--pretrained", action="store_true", help="download CompressAI's weights")
    given = parser.parse_args()
    torch.manual_seed(0)
    codec = bmshj2018_factorized(given.quality, pretrained=given.pretrained).train()
    latent = codec.g_a(pictures(1, 0)).detach()
    dense = decoder_macs(ModuleCodec(codec.g_s, latent), CROP, CROP).total
    # --8<-- [start:masks]
    plan = prune.plan(codec.g_s, given.budget, example=latent)

    masks = prune.Masks(codec.g_s, plan, given.steps)
    optimizer = torch.optim.Adam(codec.g_s.parameters(), lr=1e-4)
    optimizer.add_param_group(masks.parameters())
    for step in range(given.steps):
        masks.begin_step()
        original = pictures(4, step)
        with torch.no_grad():
            latents, _ = codec.entropy_bottleneck(codec.g_a(original))
        loss = 255**2 * (codec.g_s(latents) - original).square().mean() + masks.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        masks.end_step()
    codec.g_s = prune.shrink(masks.finish())
    # --8<-- [end:masks]

    codec.eval().update()
    original = pictures(1, 10**6)
    with torch.no_grad():
        coded = codec.compress(original)
        decoded = codec.decompress(coded["strings"], coded["shape"])["x_hat"]
    error = float((decoded - original).square().mean())
    small = decoder_macs(ModuleCodec(codec.g_s, latent), CROP, CROP).total
    size = len(coded["strings"][0][0])
    print(f"g_s of {CROP}x{CROP}: {dense / 1e6:.0f} -> {small / 1e6:.0f} MMAC")
    print(f"decoded a picture from {size} bytes, mean squared error {error:.4f}")


if __name__ == "__main__":
    main()
