"""Clips held back from training, and the score that is taken on them."""

import pytest
import torch

import vcodecs
from prune.data import SourceSpec, open_source
from prune.data.held_back import held_back
from prune.training.tradeoff import Tradeoff
from prune.training.validation import FRAMES, Validation
from vcodecs import Reference, UserError


def clips(count=7, **changes):
    spec = {"kind": "procedural", "clips": count, "frames": 7, "height": 64, "width": 128}
    return open_source(SourceSpec.model_validate(spec | changes))


# ---------------------------------------------------------------------- holding back


def names(source):
    return [source.info(i).name for i in range(len(source))]


def test_what_is_held_back_is_not_trained_on():
    source = clips()
    [(rest, weight)], held = held_back([(source, 3.0)], 2)
    assert weight == 3.0
    assert len(held) == 2
    assert sorted(names(rest) + names(held)) == sorted(names(source))
    assert (rest.read(0) == source.read(0)).all()


def test_an_endless_source_is_passed_over():
    endless, source = open_source("procedural"), clips()
    (first, second), held = held_back([(endless, 1.0), (source, 1.0)], 2)
    assert first[0] is endless
    assert len(second[0]) == 5
    assert names(held) == [names(source)[1], names(source)[5]]


def test_nothing_is_held_back_where_nothing_is_asked_for():
    sources = [(clips(), 1.0)]
    assert held_back(sources, 0) == (sources, None)


def test_more_than_there_is_is_a_user_error():
    with pytest.raises(UserError, match=r"held_back.*more than 7 clips"):
        held_back([(clips(), 1.0)], 7)


# ---------------------------------------------------------------------- the score


def test_the_score_is_the_loss_of_the_closed_loop_at_every_rate():
    torch.manual_seed(0)
    codec = vcodecs.create("dcvc_hem", "tiny").eval()
    tradeoff = Tradeoff((0.0, 3.0), (85.0, 840.0))
    source = clips(2)
    found = Validation(source, tradeoff, None)(codec)
    scores, bpps = [], []
    for i in range(2):
        clip = torch.from_numpy(source.read(i, 0, FRAMES)).float() / 255
        for rate, weight in zip((0.0, 3.0), (85.0, 840.0), strict=True):
            reference = Reference(clip[:1])
            for frame in clip[1:].split(1):
                with torch.no_grad():
                    coded = codec(frame, reference, rate)
                reference = coded.reference
                bpps.append(float(coded.total_bits()) / (64 * 128))
                scores.append(weight * float((coded.frame - frame).square().mean()) + bpps[-1])
    assert found["score"] == pytest.approx(sum(scores) / len(scores), rel=1e-4)
    assert found["val_bpp"] == pytest.approx(sum(bpps) / len(bpps), rel=1e-4)


def test_clips_of_several_sizes_count_alike():
    codec = vcodecs.create("dcvc", "tiny").eval()
    tradeoff = Tradeoff((None,), (512.0,))
    both = [Validation(clips(1, width=w, seed=4), tradeoff, None)(codec) for w in (64, 128)]
    mixed = Validation(clips(1), tradeoff, None)
    mixed.batches = [
        Validation(clips(1, width=w, seed=4), tradeoff, None).batches[0] for w in (64, 128)
    ]
    expected = sum(one["score"] for one in both) / 2
    assert mixed(codec)["score"] == pytest.approx(expected, rel=1e-5)
