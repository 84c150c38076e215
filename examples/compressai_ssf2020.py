"""Prunes the decoders of CompressAI's video codec ssf2020, in one shot.

`python examples/compressai_ssf2020.py`. Its key frames, motion and residuals have a decoder each;
each is planned and shrunk by itself, and put back into the codec, which goes on as before. To train
it on, see examples/compressai_image.py. Without --pretrained the weights are drawn anew.
"""

import argparse

import torch
from compressai.zoo import ssf2020

import prune

LATENTS = {"img_decoder": 192, "motion_decoder": 192, "res_decoder": 384}
"""Channels that each decoder reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--pretrained", action="store_true", help="download CompressAI's weights")
    given = parser.parse_args()
    torch.manual_seed(0)
    codec = ssf2020(given.quality, pretrained=given.pretrained).eval()
    for name, channels in LATENTS.items():
        decoder, latent = getattr(codec, name), torch.rand(1, channels, 8, 8)
        plan = prune.plan(decoder, given.budget, example=latent, method="one-shot", show=False)
        setattr(codec, name, prune.shrink(prune.sparsify(decoder, plan)))
        macs = plan.summary.macs
        print(f"{name}: {macs.dense / 1e6:.0f} -> {macs.sparse / 1e6:.0f} MMAC at 128x128")

    codec.update()
    frames = [torch.rand(1, 3, 128, 128) for _ in range(2)]
    strings, shapes = codec.compress(frames)
    decoded = codec.decompress(strings, shapes)
    print(f"coded and decoded {len(decoded)} frames with the shrunk decoders")


if __name__ == "__main__":
    main()
