"""The model as a case: tiny DeepSeek-V4 models of every kind of layer, computed by a backend and judged by gate G6.

Three parts, for three places: `truth` computes with references on the CPU, in a process that no kernel has touched; `perform`
computes on the backend's device, following the oracle's decisions; `judge` compares.

Weights are random and large enough that every part of a layer matters to what comes out, also in bfloat16: with a trained
model's small contributions an error in one of them would be lost in the residual's rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from deepport.conformance.composition import compositions, gradient_gates, informative
from deepport.conformance.decisions import Decisions, Directed, everything
from deepport.conformance.result import MODEL, PROFILES, CaseKey, Gate, Profile
from deepport.conformance.trace import Script, gradients, play
from deepport.record import Record, Row
from deepport_model.config import Config, EngramConfig, Yarn
from deepport_model.transformer import Transformer, cast, initialize

Part = Literal["logits", "gradients"]

_VOCABULARY = 96

_TINY = Config(
    vocab_size=_VOCABULARY, hidden_size=64, num_hidden_layers=5, num_attention_heads=4, head_dim=32, qk_rope_head_dim=16,
    q_lora_rank=32, o_groups=2, o_lora_rank=32, compress_ratios=(0, 4, 128, 4, 128),
    hash_layers=(True, True, False, False, False), n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=48,
    index_n_heads=8, index_head_dim=16, index_topk=8, sliding_window=16, hc_mult=4, initializer_range=0.15,
    yarn=Yarn(factor=16.0, original_max_position_embeddings=64),
)  # fmt: skip

_ENGRAM = EngramConfig((1, 3), (50, 60), _VOCABULARY, n_embed_per_ngram=32, n_head_per_ngram=2, boundary_id=0)

CONFIGS: dict[str, Config] = {"tiny-v4": _TINY, "tiny-v4-engram": replace(_TINY, engram=_ENGRAM)}
"""Windows that end, entries that are chosen from, sequences past an entry of 128 tokens, routers that choose and that do not."""

_LENGTHS, _NEW, _CHUNK = (140, 37, 5), 6, 50
_BATCH = (2, 140)
"""Sequences and tokens of the training step."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelCase:
    """A model, a dtype, and what is judged of it: a chunked prefill with decoding after it, or one training step's gradients.

    `profile` is the first that requires it.
    """

    config: str
    dtype: str
    part: Part
    profile: Profile

    @property
    def label(self) -> str:
        return f"{self.config}/{self.dtype}" + ("" if self.part == "logits" else f"/{self.part}")

    @property
    def key(self) -> CaseKey:
        parameters = {"config": self.config, "dtype": self.dtype, "part": self.part}
        return CaseKey(grid=MODEL, label=self.label, builder=MODEL, parameters=parameters)


MODEL_CASES: tuple[ModelCase, ...] = (
    *(ModelCase(c, "float32", "logits", "bring-up") for c in CONFIGS),
    *(ModelCase(c, "bfloat16", "logits", "inference") for c in CONFIGS),
    *(ModelCase(c, "float32", "gradients", "training") for c in CONFIGS),
)


def cases(profile: Profile) -> list[ModelCase]:
    """What a profile requires of the model."""
    return [c for c in MODEL_CASES if PROFILES.index(c.profile) <= PROFILES.index(profile)]


def find(key: CaseKey) -> ModelCase:
    """The case of a key; KeyError where there is none."""
    return {c.label: c for c in MODEL_CASES}[key.label]


@dataclass(frozen=True)
class ModelTruth:
    """Oracle and yardstick, as `perform` gives them, and the decisions that led to both."""

    oracle: dict[str, Tensor]
    yardstick: dict[str, Tensor]
    decisions: Decisions


@dataclass(frozen=True)
class Performance:
    """What a backend made of a case.

    Attributes:
        tensors: by name, on the CPU (`deepport.conformance.trace`): of a run, or the parameters' gradients.
        served: who computed what (`deepport.record`).
        choices: whether every choice was right for its own inputs.
        itself: the references computed it all, on the CPU: it is the yardstick.
    """

    tensors: dict[str, Tensor]
    served: list[Row]
    choices: Gate
    itself: bool = field(default=False)


def truth(case: ModelCase) -> ModelTruth:
    """Oracle and yardstick, by references on the CPU."""
    return truth_of(drawn(CONFIGS[case.config], case.dtype), _script(case))


def truth_of(transformer: Transformer, script: Script | None) -> ModelTruth:
    """Oracle and yardstick of a script, or of a training step where there is none."""
    decisions, wide = Decisions(), copy.deepcopy(transformer)
    for parameter in wide.parameters():
        parameter.data = parameter.data.double()  # not the buffers: angles are float32 as the model was trained
    oracle = _run(wide, script, Directed(decisions, leads=True, without=everything))
    yardstick = _run(transformer, script, Directed(decisions, without=everything))
    return ModelTruth(oracle, yardstick, decisions)


def perform(case: ModelCase, decisions: Decisions, backend: str, device: torch.device) -> Performance:
    """The case on a device, by the backend that is named."""
    return perform_of(drawn(CONFIGS[case.config], case.dtype).to(device), _script(case), decisions, backend)


def perform_of(transformer: Transformer, script: Script | None, decisions: Decisions, backend: str) -> Performance:
    """A script, or a training step where there is none, on the model's device."""
    record = Record()
    session = Directed(decisions, backend=backend, record=record)
    tensors = _run(transformer, script, session)
    served = record.totals()
    by_kernels = any(not row.implementation.startswith("reference") for row in served)
    return Performance(tensors, served, _choices(session), not by_kernels and transformer.device.type == "cpu")


def judge(case: ModelCase, performance: Performance, found: ModelTruth) -> list[Gate]:
    """Gate G6. Where references were judged by themselves it says so, and passes nothing."""
    return judge_of(performance, found, _script(case), DTYPES[case.dtype])


def judge_of(performance: Performance, found: ModelTruth, script: Script | None, dtype: torch.dtype) -> list[Gate]:
    """Gate G6 on what a script came to, or a training step's gradients where there is none."""
    got = performance.tensors
    if script is not None:
        judged = compositions(got, found.oracle, found.yardstick, script, dtype)
    else:
        judged = gradient_gates(got, found.oracle, found.yardstick)
    judged = [performance.choices, *judged]
    return informative(judged) if performance.itself else judged


def script() -> Script:
    """Three ragged prompts, the first past an entry of 128 tokens, in chunks that end within windows."""
    drawn = _tokens(1, sum(_LENGTHS)).split(_LENGTHS)
    return Script(tuple(tuple(part.tolist()) for part in drawn), _NEW, _CHUNK)


def _tokens(seed: int, count: int) -> Tensor:
    return torch.randint(0, _VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


def _script(case: ModelCase) -> Script | None:
    return script() if case.part == "logits" else None


def _run(transformer: Transformer, script: Script | None, session: Directed) -> dict[str, Tensor]:
    if script is not None:
        return play(transformer, script, session)
    sequences, length = _BATCH
    return gradients(transformer, _tokens(2, sequences * (length + 1)).view(sequences, -1), session)


def drawn(config: Config, dtype: str) -> Transformer:
    """A model with the weights that cases have, on the CPU."""
    transformer = initialize(Transformer(config)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in transformer.state_dict().values():
            # Norms start at 1, sinks and biases at 0: a kernel that ignores one would not be seen.
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator)
    return cast(transformer, DTYPES[dtype])


def _choices(session: Directed) -> Gate:
    wrong = sorted(set(session.wrong))
    detail = (
        f"wrong for their own inputs: {', '.join(wrong)}"
        if wrong
        else f"{session.differing} of {session.rows} rows were near ties that the oracle decides otherwise"
    )
    status: Literal["pass", "fail"] = "fail" if wrong else "pass"
    return Gate(gate="G6", metric="choices", status=status, value=float(len(session.wrong)), bound=0.0, detail=detail)
