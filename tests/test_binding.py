"""Which graphs decide how bits are read."""

import pytest
from test_real_bits import make

from lvc.binding import bound_graphs, bound_tensors, entropy_graphs
from lvc.kinds import kind_of
from lvc.program import Step


def listed(codec):
    """A codec's graphs as bundle.json lists them, and its program."""
    coding = codec.coding()
    graphs = {
        graph.name: {"inputs": dict(graph.inputs), "outputs": list(graph.outputs)}
        for graph in codec.decoder_graphs(128, 128)
    }
    graphs |= {
        wave.name: {
            "inputs": dict(wave.inputs),
            "outputs": list(wave.outputs),
            "positions": True,
        }
        for wave in coding.waves
    }
    return graphs, coding.steps


def test_priors_of_fvc_know_nothing_of_pictures():
    graphs, steps = listed(make("fvc"))
    assert set(bound_graphs(graphs, steps)) == {"motion_parameters", "latent_parameters"}
    assert set(entropy_graphs(graphs, steps)) == {"motion_parameters", "latent_parameters"}
    assert "reference" not in bound_tensors(graphs, steps)


@pytest.mark.parametrize("name", ["dcvc", "dcvc_hem", "dcvc_sdd"])
def test_where_a_prior_looks_at_the_frame_before_every_graph_is_bound(name):
    graphs, steps = listed(make(name))
    run = {graph for step in steps for graph in kind_of(step).graphs()}
    assert set(bound_graphs(graphs, steps)) & run == run
    makes_pictures = [n for n, graph in graphs.items() if "frame" in graph["outputs"]]
    assert not set(makes_pictures) & set(entropy_graphs(graphs, steps))


def graph(inputs, outputs):
    return {"inputs": dict.fromkeys(inputs.split()), "outputs": outputs.split()}


def test_what_is_bound_in_a_later_frame_is_bound():
    graphs = {
        "prior": graph("latent_hyper previous_feature", "latent_mean latent_scale"),
        "feature": graph("latent context", "feature"),
        "context": graph("reference", "context"),
        "picture": graph("feature", "frame"),
        "extra": graph("feature", "shown"),
    }
    steps = [
        Step("hyper", "latent"),
        Step("run", "prior"),
        Step("plain", "latent"),
        Step("run", "context"),
        Step("run", "feature"),
        Step("run", "picture"),
        Step("run", "extra"),
    ]
    # The feature needs the context, which needs the picture of the frame before.
    assert bound_graphs(graphs, steps) == ["prior", "feature", "context", "picture"]
    assert entropy_graphs(graphs, steps) == ["prior"]


def test_what_stands_in_for_a_frame_before_is_its_picture():
    graphs = {
        "prior": graph("latent_hyper previous_feature", "latent_mean latent_scale"),
        "picture": graph("latent", "frame feature"),
    }
    steps = [
        Step("first", "previous_feature", copies=2),
        Step("hyper", "latent"),
        Step("run", "prior"),
        Step("plain", "latent"),
        Step("run", "picture"),
    ]
    assert bound_tensors(graphs, steps) >= {"previous_feature", "feature", "reference", "frame"}
