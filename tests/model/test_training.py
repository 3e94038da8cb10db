"""Training: the loss falls, on every kind of layer; what is not trained by it; the router's balance."""

from dataclasses import replace

import pytest
import torch
from oracles.deepseek_v4 import SHAPES, VOCABULARY, config

from deepport.errors import BadInput
from deepport_model import training
from deepport_model.config import Config, EngramConfig
from deepport_model.moe import Router
from deepport_model.transformer import Transformer, initialize

ENGRAM = EngramConfig((1, 3), (50, 60), VOCABULARY, n_embed_per_ngram=32, n_head_per_ngram=2, boundary_id=0)


def with_engram(kernel: int = 4) -> Config:
    return replace(config(SHAPES["all-layer-types"]), index_topk=64, engram=replace(ENGRAM, kernel_size=kernel))


def periodic(length: int) -> torch.Tensor:
    """[2, length]: sequences that a model can learn by heart."""
    return torch.stack([torch.arange(length) * step % VOCABULARY for step in (3, 5)])


@pytest.mark.parametrize("kernel", [0, 4])
def test_the_loss_falls(kernel: int) -> None:
    model = initialize(Transformer(with_engram(kernel))).train()
    optimizer, ids = training.optimizer(model, 5e-3), periodic(140)
    losses = []
    for _ in range(12):
        loss = training.loss(model, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(float(VOCABULARY)).log().item(), rel=0.05)
    assert losses[-1] < 0.7 * losses[0]


def test_every_parameter_but_the_indexers_gets_a_gradient() -> None:
    model = initialize(Transformer(with_engram())).train()
    training.loss(model, periodic(140)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, _ in model.named_parameters() if ".indexer." in name}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), f"{name} has a gradient of zeros"


def test_memories_learn_faster_and_do_not_decay() -> None:
    model = initialize(Transformer(with_engram()))
    groups = training.optimizer(model, 1e-3, memory_lr=5.0).param_groups
    tables = {id(p) for name, p in model.named_parameters() if name.endswith("table.rows")}
    (memory,) = [g for g in groups if {id(p) for p in g["params"]} == tables]
    assert (memory["lr"], memory["lr_scale"], memory["weight_decay"]) == (5e-3, 5.0, 0.0)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_balance_moves_the_bias_toward_an_even_load() -> None:
    model = Transformer(with_engram())
    learned = [m for m in model.modules() if isinstance(m, Router) and m.bias is not None]
    hashed = [m for m in model.modules() if isinstance(m, Router) and m.bias is None]
    assert learned
    assert hashed
    for router in (*learned, *hashed):
        router.load.copy_(torch.tensor([8.0, 0, 4, 4, 4, 4, 4, 4]))
    assert training.balance(model, speed=0.5) == 2.0
    for router in learned:
        assert router.bias is not None
        assert router.bias.tolist() == [-0.5, 0.5, 0, 0, 0, 0, 0, 0]
        assert not router.load.any()


def test_balance_evens_out_a_router_that_prefers_one_expert() -> None:
    torch.manual_seed(0)
    model = initialize(Transformer(with_engram())).train()
    router = next(m for m in model.modules() if isinstance(m, Router) and m.bias is not None)
    assert router.bias is not None
    router.weight.data.normal_(0.0, 0.3)  # scores that differ by much more than a step of the bias
    router.bias[3] = 2.0
    ids, x = torch.zeros(512, dtype=torch.int64), torch.randn(512, 32)
    worst = []
    for _ in range(60):
        router(x, ids)
        worst.append(training.balance(model, speed=0.05))
    assert worst[0] > 3.5  # nearly every token: 512 of a mean of 128
    assert worst[-1] < 1.3


def test_load_is_counted_while_training_only() -> None:
    model = initialize(Transformer(with_engram())).eval()
    model(periodic(10))
    assert not any(m.load.any() for m in model.modules() if isinstance(m, Router))
    model.train()(periodic(10))
    assert all(m.load.sum() == 2 * 10 * 2 for m in model.modules() if isinstance(m, Router))


def test_an_untrained_indexer_must_not_choose() -> None:
    c = replace(with_engram(), index_topk=16)
    training.check_selection_is_exact(c, 64)
    with pytest.raises(BadInput, match="at most 64 tokens"):
        training.check_selection_is_exact(c, 65)
