"""Modules that are no video codecs: groups, masks, budget and shrink work on them too."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import prune
from vcodecs import UserError


class Residual(nn.Module):
    """An image network: strided input, a residual stream, a head of logits."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, 2, 1)
        self.inner = nn.Conv2d(width, 2 * width, 3, 1, 1)
        self.back = nn.Conv2d(2 * width, width, 3, 1, 1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.back(F.relu(self.inner(x)))
        return self.head(x.mean((2, 3)))


class TwoInputs(nn.Module):
    """Reads two tensors of unlike shapes, and returns two pictures."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.ConvTranspose2d(5, 8, 4, 2, 1)
        self.mix = nn.Conv2d(16, 12, 1)
        self.left, self.right = nn.Conv2d(12, 3, 3, 1, 1), nn.Conv2d(12, 2, 3, 1, 1)

    def forward(self, x, y):
        mixed = F.leaky_relu(self.mix(torch.cat((self.a(x), self.b(y)), 1)))
        return self.left(mixed), self.right(mixed)


X = torch.rand(2, 4, 24, 40, generator=torch.Generator().manual_seed(0))
TWO = (X[:, :3], torch.rand(2, 5, 12, 20, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def counted(module, *inputs):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(("module", "inputs"), [(Residual(), (X,)), (TwoInputs(), TWO)])
def test_one_shot_halves_the_macs_of_a_module(module, inputs):
    plan = prune.plan(module, 0.5, example=inputs, align=1, method="one-shot", show=False)
    small = prune.shrink(prune.sparsify(module, plan))
    assert type(small) is type(module)
    assert counted(small, *inputs) / counted(module, *inputs) == pytest.approx(0.5, abs=0.015)
    made, wanted = small(*inputs), module(*inputs)
    shapes = [[x.shape for x in ([y] if torch.is_tensor(y) else y)] for y in (made, wanted)]
    assert shapes[0] == shapes[1]


def test_a_plan_knows_what_stays_and_why():
    plan = prune.plan(Residual(), 0.5, example=X, align=1, show=False)
    assert {g.name for g in plan.channels.groups} == {"module.stem", "module.inner"}
    assert "a result of the decoder" in plan.channels.fixed["module.head"]


def test_masks_train_along_in_ones_own_loop():
    module = Residual()
    plan = prune.plan(module, 0.5, example=X, align=1, show=False)
    masks = prune.Masks(module, plan, steps=60)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    optimizer.add_param_group(masks.parameters())
    for _ in range(60):
        masks.begin_step()
        loss = module(X).square().mean() + masks.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        masks.end_step()
    assert masks.keep < 0.75  # on its way
    small = prune.shrink(masks.finish())
    assert counted(small, X) / counted(module, X) == pytest.approx(0.5, abs=0.015)
    assert not any("parametrizations" in key for key in module.state_dict())
    small(X).sum().backward()  # an ordinary module, to be trained on


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prune.plan(Residual(), 0.5), "Residual: is no codec: give an `example`"),
        (lambda: prune.plan(Residual(), 0.5, example=X[:, :3]), "Residual cannot be run on it"),
        (lambda: prune.plan(nn.Linear(4, 4), 0.5, example=torch.rand(1, 4)), "no channel of its"),
        (
            lambda: prune.sparsify(
                Residual(), prune.plan(Residual(), 0.5, example=X, align=1, show=False)
            ),
            "trained in its own loop: see prune.Masks",
        ),
    ],
)
def test_what_cannot_be_is_explained(make, message):
    with pytest.raises(UserError, match=message):
        make()
