"""What one network codes another decodes, or is refused."""

import pytest
import torch
from reference_fill import picture
from test_real_bits import make, shrunk

from prune.evaluation.coding_loop import loop
from prune.evaluation.rate_distortion import evaluate_clip
from prune.groups.find import find_groups
from prune.groups.shrink import masked_copy, shrunk_copy
from prune.onnx_export.bit_parity import check_bundle, check_decodes
from prune.onnx_export.bundle import Size, export_bundle
from vcodecs import UserError
from vcodecs.coding import TorchNetworks
from vcodecs.intra import create_intra

CLIP = torch.cat([picture(100, 130, phase=0.1 * i) for i in range(4)])


def as_frames(clip):
    return (clip * 255).round().to(torch.uint8).numpy()


def as_clip(frames):
    return torch.from_numpy(frames).float() / 255


@pytest.mark.parametrize("name", ["dcvc", "dcvc_hem", "dcvc_sdd", "fvc"])
def test_a_shrunk_codec_decodes_what_the_masked_one_codes(name):
    codec = make(name)
    channels = find_groups(codec)
    kept = {g.name: list(range(0, g.size, 2)) for g in channels.groups}
    masked = masked_copy(codec, channels, kept)
    receiver = TorchNetworks(shrunk_copy(masked, kept))
    assert check_decodes(masked, receiver, CLIP, "the shrunk codec") == 2


def test_a_codec_with_other_channels_removed_is_refused():
    codec = make("dcvc_hem")
    with pytest.raises(UserError, match=r"the shrunk codec cannot decode .* \(frame 0"):
        check_decodes(codec, TorchNetworks(shrunk(codec)), CLIP, "the shrunk codec")


@pytest.mark.parametrize(("name", "frames"), [("dcvc_hem_intra", 3), ("fvc", 2)])
def test_a_bundle_decodes_what_torch_codes(tmp_path, name, frames):
    codec = make(name)
    export_bundle(codec, tmp_path, Size(128, 128))
    assert check_bundle(codec, tmp_path, CLIP) == frames


def test_a_bundle_of_one_size_is_tried_at_that_size(tmp_path):
    codec = make("fvc")
    export_bundle(codec, tmp_path, Size(128, 192, dynamic=False))
    assert check_bundle(codec, tmp_path, CLIP) == 1


def test_a_bundle_that_does_not_decode_is_none(tmp_path):
    """Its tables are of other weights."""
    codec = make("fvc")
    export_bundle(codec, tmp_path, Size(128, 128))
    chain = codec.coding().priors["latent"]
    with torch.no_grad():
        chain.f1.h.add_(1)
    with pytest.raises(UserError, match="cannot decode what torch codes"):
        check_bundle(codec, tmp_path, CLIP)
    assert not (tmp_path / "bundle.json").exists()


# ---------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("name", ["dcvc", "dcvc_hem", "dcvc_sdd", "fvc"])
def test_evaluation_counts_the_bits_of_payloads_and_shows_what_they_decode_to(name):
    codec = make(name)
    rate = codec.rates()[0]
    frames, intra = as_frames(CLIP[:3]), create_intra("lossless")
    result = evaluate_clip(codec, frames, intra, rate, gop=3, keep=(2,))
    coding = loop(codec, "real")
    coding.start(as_clip(frames[:1]))
    with torch.no_grad():
        for number in (1, 2):
            shown, bits = coding.code(as_clip(frames[number : number + 1]), rate)
            assert result.frame_bpp[number] == bits / (100 * 130) and bits % 8 == 0
    assert (result.decoded[2] == as_frames(shown)[0].transpose(1, 2, 0)).all()


def test_estimates_are_near_real_bits_where_both_round_alike():
    codec = make("dcvc_hem")
    frames, intra = as_frames(CLIP[:3]), create_intra("lossless")
    real, estimated = (
        evaluate_clip(codec, frames, intra, 1.0, gop=3, bits=bits) for bits in ("real", "estimated")
    )
    assert real.p_psnr == pytest.approx(estimated.p_psnr, abs=1e-3)
    assert real.p_bpp == pytest.approx(estimated.p_bpp, rel=0.3)
    assert real.p_bpp != estimated.p_bpp
