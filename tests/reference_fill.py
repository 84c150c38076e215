"""Made-up weights that anybody can make again: a tensor follows from its name and shape alone.

Official checkpoints cannot be shipped with tests. Networks with these weights (large enough for
non-zero latents, motion of several pixels and a picture with contrast) take their place; outputs
of the official networks with the same weights are what the reference folder holds.
"""

import os
from fnmatch import fnmatchcase
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "reference"
REFERENCE = Path(os.environ.get("LEANVC_REFERENCE", BESIDE))


def needs(file):
    """Mark a test as comparing with this file of the reference folder."""
    there = pytest.mark.skipif(
        not (REFERENCE / file).is_file(),
        reason=f"no {file} in {REFERENCE}: set LEANVC_REFERENCE to the reference data's folder",
    )
    return lambda test: pytest.mark.parity(there(test))


# How much larger than "variance preserved" the weights of a layer are (1 where not listed).
GAINS = {
    "*moduleBasic.?.conv5.weight": 3.0,
    # DCVC
    "mvEncoder.6.weight": 2.5,
    "contextualEncoder.8.weight": 3.0,
    "mvpriorEncoder.4.weight": 3.0,
    "priorEncoder.4.weight": 3.0,
    "entropy_parameters.4.weight": 1.5,
    "entropy_parameters_mv.4.weight": 1.5,
    "contextualDecoder_part1.?.0.weight": 0.5,
    "contextualDecoder_part2.3.weight": 0.4,
    # DCVC-HEM and its intra codec
    "mv_encoder.6.weight": 0.3,
    "contextual_encoder.conv4.weight": 2.0,
    "enc.6.weight": 2.0,
    "hyper_enc.8.weight": 6.0,
    "mv_hyper_prior_encoder.8.weight": 6.0,
    "contextual_hyper_prior_encoder.4.weight": 3.0,
    "mv_decoder.7.0.weight": 0.5,
    "feature_adaptor_P.weight": 0.5,
    "recon_generation_net.first_conv.weight": 0.4,
    "recon_generation_net.recon_conv.weight": 0.08,
    "refine.1.weight": 0.02,
    # DCVC-SDD, for which there is no reference data
    "*.block.0.conv2.weight": 0.3,
    "*.block.1.conv.2.weight": 0.3,
    "feature_adaptor.weight": 0.5,
    "feature_adaptor?.weight": 0.5,
    "mv_encoder.enc_3.2.weight": 0.5,
    "mv_decoder.out_?.0.weight": 0.3,
    # ELF-VC, for which there is no reference data
    "flow_hyper_encoder.4.weight": 12.0,
    "residue_hyper_encoder.4.weight": 12.0,
    "flow_decoder.head.weight": 3.0,
    "residue_decoder.head.weight": 0.05,
    # FVC
    "aligner.offset_encoder.conv3.weight": 0.5,
    "resEncoder.conv3.weight": 0.2,
    "OffsetPriorEncoder.conv3.weight": 4.0,
    "resPriorEncoder.conv3.weight": 4.0,
    "resDecoder.deconv3.weight": 0.4,
    "Decoder.deconv1.weight": 0.02,
}

# What a bias is centred on, one number for each of its equal parts (0 where not listed).
CENTRES = {
    "entropy_parameters.4.bias": (0.0, 1.5),
    "entropy_parameters_mv.4.bias": (0.0, 1.5),
    "*y_prior_fusion.1.block.1.conv.2.bias": (0.9, 1.0, 0.0),
    "*y_spatial_prior.2.block.1.conv.2.bias": (1.0, 0.0),
    "y_prior_fusion.4.bias": (0.9, 1.0, 0.0),
    "mv_y_prior_fusion.4.bias": (0.9, 1.0, 0.0),
    "y_spatial_prior.4.bias": (1.0, 0.0, 1.0, 0.0),
    "mv_y_spatial_prior.4.bias": (1.0, 0.0, 1.0, 0.0),
    "flow_hyper_decoder.4.bias": (0.0, 1.0),
    "residue_hyper_decoder.4.bias": (0.0, 1.0),
    "*parameters_net.conv3.bias": (0.0, 1.2),
    "contextualDecoder_part2.3.bias": (0.5,),
    "recon_generation_net.recon_conv.bias": (0.5,),
    "refine.1.bias": (0.5,),
    "Decoder.deconv1.bias": (0.5,),
}

# (centre, spread) of tensors whose values have a meaning of their own.
SPECIAL = {
    "*beta": (1.0, 0.2),
    "*.f?.h": (0.2, 0.3),
    "*.f?.b": (0.0, 0.3),
    "*.f?.a": (0.0, 0.5),
    "*log_gain": (0.5, 0.5),
    "*q_basic": (0.9, 0.6),
    "*q_basic_???": (1.0, 0.3),
}


def picture(height, width, phase=0.0):
    """A smooth picture (1, 3, height, width) that is different at every phase."""
    rows = torch.arange(height).view(-1, 1) / 9
    columns = torch.arange(width) / 7
    waves = [torch.sin(columns + phase + c) * torch.cos(rows - phase / 2 + 2 * c) for c in range(3)]
    return (0.5 + 0.35 * torch.stack(waves))[None]


def extracts(features):
    """What the reference data hold of large features (1, C, H, W): their middle and moments."""
    held = {}
    for key, value in features.items():
        feature = value[0].numpy()
        row, column = feature.shape[1] // 2 - 6, feature.shape[2] // 2 - 6
        held[f"{key}.crop"] = feature[:, row : row + 12, column : column + 12]
        held[f"{key}.channel_mean"] = feature.mean((1, 2))
        held[f"{key}.channel_std"] = feature.std((1, 2))
    return held


def fill(name, shape):
    """The float32 array of the state-dict entry `name`."""
    noise = np.random.RandomState(crc32(name.encode())).random_sample(tuple(shape)) * 2 - 1
    centre, spread = _centre_and_spread(name, tuple(shape))
    return (centre + spread * noise).astype(np.float32)


def fill_codec(codec):
    """Give every tensor of `codec` its made-up values, masks excepted; returns the codec."""
    state = codec.state_dict()
    for name, value in state.items():
        if not name.endswith(".mask"):
            state[name] = torch.from_numpy(fill(name, value.shape))
    codec.load_state_dict(state)
    return codec


def _centre_and_spread(name, shape):
    special = _lookup(SPECIAL, name)
    if special is not None:
        return special
    if name.endswith("gamma"):
        return 0.02 + 0.25 * np.eye(shape[0]), 0.03
    if name.endswith(("q_scale", "q_scale_dec")):
        return np.linspace(1.4, 0.5, shape[0]).reshape(shape), 0.02
    if name.endswith("q_scale_enc"):
        return np.linspace(0.7, 2.0, shape[0]).reshape(shape), 0.02
    if len(shape) > 1:
        return 0.0, _lookup(GAINS, name, 1.0) * np.sqrt(3 / np.prod(shape[1:]))
    parts = _lookup(CENTRES, name, (0.0,))
    return np.repeat(parts, shape[0] // len(parts)), 0.05


def _lookup(table, name, default=None):
    return next((value for key, value in table.items() if fnmatchcase(name, key)), default)
