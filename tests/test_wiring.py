"""Which programs can be carried out on which graphs, by names and shapes alone."""

import pytest

from lvc.program import Step
from lvc.wiring import Shape, Wiring


def graph(inputs, outputs, positions=False):
    shapes = {
        name: {"channels": channels} | ({} if positions else {"stride": stride})
        for name, (channels, stride) in inputs.items()
    }
    return {"inputs": shapes, "outputs": outputs.split(), "positions": positions}


def waves(**changes):
    """An auto-regressive codec of one latent, with a feature that goes from frame to frame."""
    graphs = {
        "prior": graph({"latent_hyper": (4, 64)}, "latent_prior"),
        "wave": graph(
            {"latent_prior": (12, 16), "latent_patch": (6, 16)}, "latent_mean latent_scale", True
        ),
        "start": graph({"reference": (3, 1)}, "context"),
        "next": graph({"previous_feature": (8, 1)}, "context"),
        "picture": graph({"latent": (6, 16), "context": (8, 2)}, "frame feature"),
    }
    steps = {
        "context": Step("run", "next", after_intra="start"),
        "hyper": Step("hyper", "latent"),
        "prior": Step("run", "prior"),
        "waves": Step("waves", "latent", graph="wave"),
        "picture": Step("run", "picture"),
    }
    steps |= {name: step for name, step in changes.items() if name in steps}
    graphs |= changes.get("graphs", {})
    tables = changes.get("tables", {"latent": 4})
    before = changes.get("before", {"reference"})
    return Wiring(graphs, [step for step in steps.values() if step], tables, {}, before)


def test_every_tensor_has_one_shape():
    shapes = waves().shapes
    assert shapes["latent"] == shapes["latent_mean"] == Shape(6, 16)
    assert shapes["latent_hyper"] == Shape(4, 64)
    assert shapes["feature"] == shapes["previous_feature"] == Shape(8, 1)
    assert shapes["frame"] == shapes["reference"] == Shape(3, 1)


def test_strides_are_those_that_the_graphs_state():
    graphs = {
        "prior": graph({"latent_hyper": (4, 32)}, "latent_prior"),
        "picture": graph({"latent": (6, 8), "context": (8, 2)}, "frame feature"),
    }
    shapes = waves(graphs=graphs).shapes
    assert shapes["latent_prior"] == Shape(12, 8) and shapes["latent_scale"] == Shape(6, 8)
    assert shapes["latent_hyper"] == Shape(4, 32)


def test_only_graphs_that_the_program_runs_are_used():
    unused = {"idle": graph({"latent": (6, 16)}, "nothing")}
    assert waves(graphs=unused).used() == ["prior", "wave", "start", "next", "picture"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # Behind an I frame there is no feature; latents are zero there, features are not.
        ({"context": Step("run", "next")}, r"steps\[0\] .*nothing has made previous_feature"),
        # Behind a P frame there is one only if the frame before made it.
        (
            {"graphs": {"picture": graph({"latent": (6, 16), "context": (8, 2)}, "frame latents")}},
            "nothing has made previous_feature",
        ),
        ({"before": ()}, "nothing has made reference"),
        ({"tables": {}}, "hyper: there is none of latent"),
        ({"tables": {"latent": 5}}, "5 tables for the 4 channels of latent_hyper"),
        ({"prior": None}, r"steps\[2\] \(waves latent\): nothing has made latent_prior"),
        ({"waves": Step("waves", "latent", graph="prior")}, "'prior' is no graph of positions"),
        ({"prior": Step("run", "wave")}, "'wave' is a graph of positions"),
        ({"waves": Step("waves", "sound", graph="wave")}, "no graph has sound_latent as an input"),
        ({"waves": Step("plain", "latent")}, "nothing has made latent_mean"),
        (
            {"waves": Step("checkerboard", "latent", graph="prior")},
            "quantisers: there is none of latent",
        ),
        (
            {"graphs": {"wave": graph({"latent_patch": (6, 16)}, "latent_mean", True)}},
            "nothing has made latent_scale",
        ),
        (
            {"graphs": {"wave": graph({"latent_patch": (7, 16)}, "latent_mean", True)}},
            "latent has 6 channels at 1/16 of the size here and 7 channels at 1/16",
        ),
        (
            {"graphs": {"idle": graph({"latent_hyper": (4, 16)}, "nothing")}},
            "latent_hyper has 4 channels at 1/16 .* 4 channels at 1/64",
        ),
    ],
)
def test_a_program_that_does_not_fit_its_graphs_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        waves(**changes)


def test_latents_of_the_frame_before_are_zero_behind_an_i_frame():
    start = graph({"reference": (3, 1), "previous_latent": (6, 16)}, "context")
    assert waves(graphs={"start": start}).shapes["previous_latent"] == Shape(6, 16)


def test_behind_an_i_frame_pictures_can_stand_for_features():
    first = Step("first", "previous_feature", copies=2)
    graphs = {"next": graph({"previous_feature": (6, 1)}, "context")}
    steps = [first, Step("run", "next"), Step("run", "picture")]
    picture = graph({"context": (8, 2)}, "frame feature")
    Wiring(graphs | {"picture": picture}, steps, {}, {}, {"reference"})
    with pytest.raises(ValueError, match="previous_feature has 9 channels"):
        Wiring(graphs, [Step("first", "previous_feature", copies=3)], {}, {}, {"reference"})


# ---------------------------------------------------------------------- levels


def with_levels(shape, step="level"):
    graphs = {
        "prior": graph({"latent_hyper": (4, 64)}, "latent_mean latent_scale"),
        "picture": graph({"latent": (6, 16), "level": shape}, "frame"),
    }
    steps = (
        Step("level", step),
        Step("hyper", "latent"),
        Step("run", "prior"),
        Step("plain", "latent"),
        Step("run", "picture"),
    )
    return Wiring(graphs, steps, {"latent": 4}, {}, {"reference"})


def test_a_level_has_as_many_channels_as_the_graphs_say():
    assert with_levels((8, 0)).shapes["level"] == Shape(8, 0)


@pytest.mark.parametrize(
    ("shape", "step", "told"),
    [
        ((8, 16), "level", "8 channels of one number each here"),
        ((65, 0), "level", "65 levels: there can be 64"),
        ((2**31 - 1, 0), "level", "2147483647 levels"),
        ((8, 0), "other", "no graph has other as an input"),
    ],
)
def test_a_level_that_no_program_can_make_is_refused(shape, step, told):
    with pytest.raises(ValueError, match=told):
        with_levels(shape, step)
