"""Wide frames: positions are float32 parts of the width, and the export is checked all the same."""

import numpy as np
import pytest
from hem import VIDEO, lively

from prune.onnx_export import bundle as export
from prune.onnx_export.bundle import Size, example_inputs, export_bundle
from vcodecs import UserError

WIDE = Size(64, 1920, dynamic=False)


@pytest.fixture(scope="module")
def codec():
    return lively(VIDEO)


def test_a_wide_picture_is_no_reason_to_refuse(codec, tmp_path):
    assert 0 < export_bundle(codec, tmp_path, WIDE) <= 5e-5


def test_sampling_half_a_pixel_beside_is(codec, tmp_path, monkeypatch):
    traced = export.traced

    def trace_wrong(parts):
        models = traced(parts)
        for node in (node for model in models.values() for node in model.graph.node):
            for attribute in node.attribute:
                if attribute.name == "align_corners":
                    attribute.i = 1 - attribute.i
        return models

    monkeypatch.setattr(export, "traced", trace_wrong)
    with pytest.raises(UserError, match="graph context"):
        export_bundle(codec, tmp_path, WIDE)


def test_example_pictures_and_features_are_soft_and_latents_whole(codec):
    for graph in codec.decoder_graphs(128, 192):
        for name, value in example_inputs(graph).items():
            assert value.shape == graph.input_shapes()[name]
            if graph.inputs[name].stride >= 16:
                assert np.array_equal(value, np.round(value)) and value.any()
                continue
            assert value.std() > 0.1
            for axis in (2, 3):
                assert np.abs(np.diff(value, axis=axis)).max() <= np.ptp(value) / 7
            if name == "reference":
                assert value.min() >= 0 and value.max() <= 1
