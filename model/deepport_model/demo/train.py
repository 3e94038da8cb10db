"""Train the demo model: `python -m deepport_model.demo.train DIRECTORY [--without-engram] [--steps N]`.

A small DeepSeek-V4 with Engram reads the standard library's documentation (`corpus`). The same seed and torch give the same
weights on a machine; nothing is downloaded. The checkpoint is written at the end, all at once; the figures of the run go to
`results.json` beside it, from which `card` writes the model card.
"""

from __future__ import annotations

import json
import math
import platform
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from deepport import backend
from deepport_model import training
from deepport_model.checkpoint import save_weights
from deepport_model.config import Config, EngramConfig
from deepport_model.demo import corpus, vocabulary
from deepport_model.demo.evaluate import bits_per_byte
from deepport_model.engram_tokens import compressed_ids, compressed_vocab_size
from deepport_model.tokenizer import Tokenizer
from deepport_model.transformer import Transformer, cast, initialize

CONTEXT = 512
"""Tokens in a training sequence. Selection is exact up to here, so that the indexer needs no training."""

SEQUENCES = 4
"""Sequences in a step."""

CONFIG = Config(
    vocab_size=vocabulary.VOCABULARY,
    hidden_size=128,
    num_hidden_layers=5,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=16,
    q_lora_rank=64,
    o_groups=2,
    o_lora_rank=64,
    compress_ratios=(0, 4, 32, 4, 32),
    hash_layers=(True, False, False, False, False),
    n_routed_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=64,
    index_n_heads=8,
    index_head_dim=16,
    index_topk=CONTEXT // 4,
    sliding_window=64,
    yarn=None,
    max_position_embeddings=65536,
    bos_token_id=0,
    eos_token_id=(1,),
)
"""V4's architecture in small: every layer type, hash and learned routing, four streams."""

ENGRAM = EngramConfig(
    layer_ids=(1, 3),
    engram_vocab_size=(2000, 2000),
    compressed_vocab_size=1,  # set from the tokenizer
    max_ngram_size=3,
    n_embed_per_ngram=128,
    n_head_per_ngram=4,
    pad_id=2,
    boundary_id=0,
)
"""Two memories of bigrams and trigrams; a document's first token ends the look-back."""


@dataclass(frozen=True)
class Run:
    """What one training run was, and what it reached."""

    engram: bool
    steps: int
    parameters: int
    train_tokens: int
    train_bytes: int
    held_out_bytes: int
    loss: float
    bits_per_byte: float
    seconds: float
    seed: int
    python: str
    torch: str


def build(tokenizer: Tokenizer, engram: bool, seed: int) -> Transformer:
    """The untrained model for this tokenizer."""
    ids = compressed_ids(tokenizer)
    memory = replace(ENGRAM, compressed_vocab_size=compressed_vocab_size(ids)) if engram else None
    model = initialize(Transformer(replace(CONFIG, engram=memory)), seed)
    if model.engram_token_map is not None:
        model.engram_token_map.copy_(ids)
    return model


def batches(documents: Sequence[Sequence[int]], seed: int) -> Iterator[Tensor]:
    """Endless `[SEQUENCES, CONTEXT + 1]` cuts of all documents end to end, shuffled anew for every pass."""
    shuffle, size = random.Random(seed), SEQUENCES * (CONTEXT + 1)
    stream: list[int] = []
    while True:
        for document in shuffle.sample(documents, len(documents)):
            stream += document
            while len(stream) >= size:
                yield torch.tensor(stream[:size]).view(SEQUENCES, -1)
                del stream[:size]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 5% of the steps, then a cosine down to a tenth."""
    warm = max(steps // 20, 1)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def train(model: Transformer, documents: Sequence[Sequence[int]], steps: int, peak: float, seed: int) -> float:
    """Train in place; returns the mean loss (nats per token) of the last 20 steps."""
    training.check_selection_is_exact(model.config, CONTEXT)
    optimizer, losses = training.optimizer(model, peak), []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    )
    model.train()
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps)
        for step, ids in zip(range(steps), batches(documents, seed), strict=False):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak) * group["lr_scale"]
            loss = training.loss(model, ids.to(model.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            training.balance(model)
            losses.append(loss.item())
            recent = sum(losses[-20:]) / len(losses[-20:])
            progress.update(task, advance=1, description=f"loss {recent:.3f}")
            if (step + 1) % 50 == 0 and not progress.console.is_terminal:
                print(f"step {step + 1}/{steps}  loss {recent:.3f}", flush=True)
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])


def main(
    directory: Annotated[Path, typer.Argument(help="Where the checkpoint and results.json are written.")],
    without_engram: Annotated[bool, typer.Option(help="Leave the memories out: the ablation.")] = False,
    steps: Annotated[int, typer.Option(min=1, help=f"Steps of {SEQUENCES * CONTEXT} tokens.")] = 900,
    peak: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the texts.")] = 0,
    device: Annotated[str, typer.Option(help="As --device of deepport run.")] = "auto",
) -> None:
    """Train the demo model on the documentation strings of the running Python."""
    started, began = backend.start(backend.choose(device)), time.monotonic()
    split = corpus.documents()
    tokenizer = vocabulary.train_tokenizer(split.train)
    documents = vocabulary.encode(tokenizer, split.train)
    model = build(tokenizer, not without_engram, seed).to(started.device_type)
    loss = train(model, documents, steps, peak, seed)
    size = vocabulary.utf8_bytes(split.held_out)
    reached = bits_per_byte(model, vocabulary.encode(tokenizer, split.held_out), size, CONTEXT)
    parameters = sum(p.numel() for p in model.parameters())
    run = Run(
        not without_engram, steps, parameters, sum(map(len, documents)), vocabulary.utf8_bytes(split.train), size,
        loss, reached, time.monotonic() - began, seed, platform.python_version(), torch.__version__,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "tokenizer.json"
        tokenizer.backend.save(str(path))
        save_weights(cast(model.cpu(), torch.bfloat16), model.config, directory, tokenizer=path)
    (directory / "results.json").write_text(json.dumps(run.__dict__, indent=2) + "\n")
    print(
        f"{parameters / 1e6:.2f} million parameters, {reached:.4f} bits per byte of held-out text; written to {directory}"
    )


if __name__ == "__main__":
    typer.run(main)
