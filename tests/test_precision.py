"""`precision: auto`: bfloat16 only where the device has instructions for it."""

import pytest
import torch

from prune.training import precision

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch):
    def set_flags(*flags):
        monkeypatch.setattr(precision, "_cpu_flags", lambda: frozenset(flags))

    return set_flags


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_a_processor_that_multiplies_in_bfloat16_trains_in_it(processor, flag):
    processor("avx2", "avx512f", flag)
    assert precision.resolved("auto", CPU) == "bf16"


def test_other_processors_train_in_full_precision(processor):
    processor("avx2", "avx512f", "avx512_vnni")
    assert precision.resolved("auto", CPU) == "no"


@pytest.mark.parametrize("asked", ["no", "bf16"])
def test_what_a_recipe_names_is_taken_whatever_the_device(processor, asked):
    processor("amx_bf16") if asked == "no" else processor()
    assert precision.resolved(asked, CPU) == asked


@pytest.mark.parametrize(("major", "expected"), [(9, "bf16"), (8, "bf16"), (7, "no")])
def test_a_gpu_is_asked_for_its_generation(monkeypatch, major, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    assert precision.resolved("auto", torch.device("cuda")) == expected
