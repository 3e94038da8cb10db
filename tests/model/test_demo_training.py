"""The demo's trainer: batches, schedule, evaluation, and one short run to a checkpoint that loads."""

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.deepseek_v4 import SHAPES, VOCABULARY, config
from torch.nn import functional

import deepport
from deepport_model.demo import corpus, train, vocabulary
from deepport_model.demo.evaluate import bits_per_byte, windows
from deepport_model.transformer import Transformer, initialize


@settings(deadline=None)
@given(length=st.integers(2, 400), context=st.integers(2, 64))
def test_windows_score_every_token_but_the_first_once(length: int, context: int) -> None:
    document, scored = list(range(length)), []
    for span, count in windows(document, context):
        assert 1 <= count < len(span) <= context + 1
        scored += span[-count:]
        assert len(span) - 1 >= min(span[-1], context), "a full context where there is one"
    assert scored == document[1:]


def test_bits_per_byte_is_cross_entropy() -> None:
    model = initialize(Transformer(config(SHAPES["window-only"])), seed=1).eval()
    g = torch.Generator().manual_seed(0)
    documents = [torch.randint(0, VOCABULARY, (n,), generator=g).tolist() for n in (2, 9, 33, 5)]
    expected = 0.0
    with torch.no_grad():
        for ids in documents:
            logits = model(torch.tensor([ids[:-1]]))[0].double()
            expected += float(functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")) / math.log(2)
    for tokens in (1, 20, 4096):  # however they are batched
        assert bits_per_byte(model, documents, 100, 64, tokens) == pytest.approx(expected / 100, rel=1e-5)


def test_batches_are_all_documents_in_every_pass_in_another_order() -> None:
    size = train.SEQUENCES * (train.CONTEXT + 1)
    documents = [[i] * 57 for i in range(2 * size // 57 + 1)]
    total = sum(map(len, documents))
    taken = list(islice(train.batches(documents, seed=0), 4))
    assert all(b.shape == (train.SEQUENCES, train.CONTEXT + 1) for b in taken)
    stream = torch.cat([b.flatten() for b in taken]).tolist()
    assert sorted(stream[:total]) == sorted(t for d in documents for t in d)
    assert stream[:size] == next(train.batches(documents, seed=0)).flatten().tolist()
    assert stream[:size] != next(train.batches(documents, seed=1)).flatten().tolist()
    assert stream[:size] != stream[total : total + size]


def test_the_learning_rate_warms_up_and_comes_down_to_a_tenth() -> None:
    rates = [train.learning_rate(step, 200, 1.0) for step in range(200)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.fixture(scope="module")
def few() -> corpus.Split:
    everything = corpus.documents()
    return corpus.Split(everything.train[:400], everything.held_out[:3])


@pytest.mark.parametrize("engram", [True, False])
def test_a_short_run_writes_a_checkpoint_that_loads(
    engram: bool, few: corpus.Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "documents", lambda: few)
    monkeypatch.setattr(train, "CONTEXT", 32)
    train.main(tmp_path / "model", without_engram=not engram, steps=2, seed=1, device="cpu")
    run = json.loads((tmp_path / "model" / "results.json").read_text())
    assert run["engram"] is engram
    assert run["held_out_bytes"] == vocabulary.utf8_bytes(few.held_out)
    assert 1.0 < run["bits_per_byte"] < 8.0
    model = deepport.load(tmp_path / "model", device="cpu")
    assert (model.config.engram is not None) is engram
    assert "".join(model.generate("Return", max_new_tokens=3))
