"""Steps that can be recorded as CUDA graphs: none may wait for the device or move data to it."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import vcodecs
from prune.training.loss import rate_distortion

CODECS = ["dcvc", "dcvc_hem", "dcvc_hem_intra", "dcvc_sdd", "fvc"]


class Transfers(TorchDispatchMode):
    """Notes every operation between devices. (One that needs a value fails on fake tensors.)"""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        tensors = [t for t in (*args, made) if isinstance(t, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim()}
        if len(devices) > 1:
            self.seen.append(str(function))
        return made


def on_imagined_gpu(codec):
    """Parameters and buffers without values, on a device that need not exist."""
    for module in codec.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None:
                    empty = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                    held[name] = nn.Parameter(empty) if held is module._parameters else empty
    return codec


@pytest.mark.filterwarnings("ignore:User provided device_type")
@pytest.mark.parametrize("name", CODECS)
def test_the_loss_of_a_step_is_made_on_the_device_alone(name):
    codec = vcodecs.create(name, "tiny").train()
    rated = len(codec.rates()) > 1
    with FakeTensorMode():
        on_imagined_gpu(codec)
        stage = codec.stages()[-1]
        clip = torch.empty(2, stage.frames + 1, 3, 64, 64, device="cuda")
        rates = torch.empty(2, device="cuda") if rated else None
        lagrangians = torch.empty(2, device="cuda")
        with Transfers() as transfers, torch.autocast("cuda", torch.bfloat16):
            outcome = rate_distortion(codec, clip, stage, lagrangians, 0.02, rates)
    assert outcome.loss.device.type == "cuda"
    assert transfers.seen == []


def test_a_transfer_would_be_seen():
    with FakeTensorMode(), Transfers() as transfers:
        torch.empty(3).to("cuda")
    assert transfers.seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", CODECS)
def test_a_recorded_pass_leaves_the_gradients_of_a_plain_one(name):
    from prune.training.captured import CapturedPass, Gradients

    torch.manual_seed(0)
    codec = vcodecs.create(name, "tiny").cuda().train()
    stage = codec.stages()[-1]
    rated = len(codec.rates()) > 1

    def work(clip, rates, lagrangians):
        outcome = rate_distortion(codec, clip, stage, lagrangians, 0.0, rates)
        codec.zero_grad(set_to_none=True)
        outcome.loss.backward()
        norm = nn.utils.clip_grad_norm_(codec.parameters(), 1e9)
        return Gradients(outcome.loss.detach(), outcome.bpp, outcome.mse, norm)

    def drawn(seed):
        torch.manual_seed(seed)
        clip = torch.rand(2, stage.frames + 1, 3, 64, 64, device="cuda")
        rates = torch.rand(2, device="cuda") * 3 if rated else None
        return clip, rates, torch.full((2,), 500.0, device="cuda")

    recorded = CapturedPass(work, *drawn(1))
    for seed in (2, 3):
        inputs = drawn(seed)
        torch.manual_seed(seed)
        found = recorded(*inputs)
        norm, mse = found.norm.item(), found.mse.item()
        torch.manual_seed(seed)
        plain = work(*inputs)
        assert mse == pytest.approx(plain.mse.item(), rel=1e-4)
        # Noise in the bits is drawn otherwise in a graph.
        assert norm == pytest.approx(plain.norm.item(), rel=0.2)
