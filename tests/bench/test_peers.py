"""Peers: the same logits or none, a process of their own that may die, and files that they read."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import tiny
from deepport.bench.model import Ours, drawn, exact
from deepport.bench.peers import logits
from deepport.bench.peers.process import PeerFailed, PeerProcess, Start
from deepport.bench.quantised import Formats, quantise
from deepport.bench.timing import Stopwatch
from deepport.bench.wholes import MODULES
from deepport.errors import BadInput
from deepport.runtime import HostRuntime
from deepport_model.transformer import Transformer

IDS = drawn(tiny.CONFIG.vocab_size, logits.PROMPT + logits.STEPS)
needs_llama = pytest.mark.skipif(
    find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed: deepport[bench]"
)
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="gguf is not installed: deepport[bench]")


@contextmanager
def seated(name: str, model: Transformer, folder: Path) -> Iterator[PeerProcess]:
    folder.mkdir(exist_ok=True)
    importlib.import_module(MODULES[name]).write(model, folder)
    peer = PeerProcess(Start(MODULES[name], folder, 1, 256, 256))
    try:
        yield peer
    finally:
        peer.close()


def ours(model: Transformer) -> Tensor:
    with torch.inference_mode():
        return logits.sample(Ours(model, 256, 256, Stopwatch(HostRuntime())), IDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformers", pytest.param("llama.cpp", marks=[needs_llama, needs_gguf])])
def test_a_peer_has_our_logits_and_a_model_that_differs_does_not(name: str, tmp_path: Path) -> None:
    model = tiny.transformer()
    mine = ours(model)
    with seated(name, model, tmp_path / "same") as peer:
        compared = logits.compare(logits.sample(peer, IDS), mine, mine)
        again = logits.sample(peer, IDS)
        assert peer.version
        assert peer.settings
    assert compared.same
    assert compared.difference < 2e-4
    assert logits.difference(again, mine) == pytest.approx(compared.difference, rel=1e-2), "reset forgets everything"
    with torch.no_grad():
        model.layers[2].ffn.experts.w2.mul_(1.2)  # type: ignore[union-attr,operator]
    with seated(name, model, tmp_path / "other") as peer:
        assert not logits.compare(logits.sample(peer, IDS), mine, mine).same


@pytest.mark.slow
@needs_llama
@needs_gguf
def test_llama_cpp_reads_mxfp4_experts(tmp_path: Path) -> None:
    model = quantise(tiny.transformer(torch.bfloat16), Formats.parse("mxfp4"))
    mine, true = ours(model), ours(exact(model))
    with seated("llama.cpp", model, tmp_path / "model") as peer:
        assert logits.compare(logits.sample(peer, IDS), mine, true).same


def test_what_rounding_explains() -> None:
    g = torch.Generator().manual_seed(0)
    true = torch.randn(9, 50, generator=g)
    mine = true + 0.01 * torch.randn(9, 50, generator=g)
    honest = true + 0.03 * torch.randn(9, 50, generator=g)
    wrong = true + 0.1 * torch.randn(9, 50, generator=g)
    assert logits.compare(honest, mine, true).same
    assert not logits.compare(wrong, mine, true).same
    assert not logits.compare(honest, true, true).same, "float32 has no such errors"
    honest[3] = torch.randn(50, generator=g)
    assert logits.compare(honest, mine, true).same, "one token may have other experts"
    assert not logits.compare(torch.full_like(true, torch.nan), mine, true).same


def test_our_own_fault_excuses_nobody() -> None:
    """A peer is right and we are wrong, so that both differ from us alike."""
    g = torch.Generator().manual_seed(0)
    true = torch.randn(9, 50, generator=g)
    mine = true + 0.4 * torch.randn(9, 50, generator=g)
    compared = logits.compare(true, mine, true)
    assert not compared.same
    assert compared.own == pytest.approx(compared.difference, rel=0.2)


class Dying:
    """A runner that does not survive being asked."""

    def reset(self) -> None: ...

    def feed(self, ids: Sequence[int]) -> None:
        if len(ids) > 2:
            print("one line too many", flush=True)
            os.kill(os.getpid(), signal.SIGABRT)
        if len(ids) > 1:
            raise ValueError("two\nlines")

    def logits(self) -> Tensor:
        return torch.ones(2)


def start(folder: Path, threads: int, capacity: int, chunk: int) -> Dying:
    if (folder / "broken").exists():
        raise RuntimeError("no such model")
    return Dying()


def about() -> tuple[str, dict[str, str]]:
    return "0", {}


def test_a_peer_that_dies_is_told_of(tmp_path: Path) -> None:
    peer = PeerProcess(Start(__name__, tmp_path, 1, 8, 8))
    try:
        assert peer.feed([1]) < 5
        assert torch.equal(peer.logits(), torch.ones(2))
        with pytest.raises(PeerFailed, match=r"^ValueError: two lines$"):
            peer.feed([1, 2])
        with pytest.raises(PeerFailed):
            peer.feed([1])
    finally:
        peer.close()
    peer = PeerProcess(Start(__name__, tmp_path, 1, 8, 8))
    try:
        with pytest.raises(PeerFailed, match=r"^its process was ended by SIGABRT: one line too many$"):
            peer.feed([1, 2, 3])
    finally:
        peer.close()


def test_a_peer_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(PeerFailed, match=r"^RuntimeError: no such model$"):
        PeerProcess(Start(__name__, tmp_path, 1, 8, 8))


@needs_gguf
def test_the_file_that_llama_cpp_reads(tmp_path: Path) -> None:
    from deepport.bench.peers import gguf

    reader = importlib.import_module("gguf")
    model = quantise(tiny.transformer(torch.bfloat16), Formats.parse("mxfp4+int8"))
    gguf.write(model, tmp_path / "model.gguf")
    found = {t.name: t for t in reader.GGUFReader(tmp_path / "model.gguf").tensors}
    values = dequantize_all(reader, found)
    layer = model.layers[1]
    w13 = exact(model).layers[1].ffn.experts.w13
    assert torch.equal(values["blk.1.ffn_gate_exps.weight"], w13[:, :32])
    assert torch.equal(values["blk.1.ffn_up_exps.weight"], w13[:, 32:])
    assert torch.equal(values["blk.1.ffn_gate_inp.weight"], layer.ffn.gate.weight.float())
    wq_a = exact(model).layers[1].attn.wq_a.weight
    torch.testing.assert_close(values["blk.1.attn_q_a.weight"], wq_a, rtol=1e-3, atol=0)
    assert {t.tensor_type.name for t in found.values()} == {"F32", "BF16", "I32", "MXFP4", "Q8_0"}


def dequantize_all(reader: object, found: dict[str, object]) -> dict[str, Tensor]:
    from gguf.quants import dequantize

    plain = {n: t for n, t in found.items() if t.tensor_type.name != "I32"}  # type: ignore[attr-defined]
    return {n: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for n, t in plain.items()}  # type: ignore[attr-defined]


@needs_gguf
def test_a_model_that_llama_cpp_does_not_have_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from deepport.bench.peers import gguf

    model = tiny.transformer()
    model.config = replace(tiny.CONFIG, scoring_func="sigmoid")
    with pytest.raises(
        BadInput, match=r"this model is none that llama\.cpp's deepseek4 can be: it scores experts by sqrtsoftplus"
    ):
        gguf.write(model, tmp_path / "model.gguf")
