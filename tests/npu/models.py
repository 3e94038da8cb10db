"""Two tiny models and all that is judged of them on the simulated NPU, one part after the other (gate G6).

`v4` is the conformance suite's, with fewer layers. `v4-engram` has the sizes that the vendor's fused operators take: heads of
512 with 64 rotary channels, an indexer of 128, and numbers of heads that are powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from deepport.conformance import model
from deepport.conformance.model import DTYPES, ModelTruth, Performance
from deepport.conformance.result import Gate
from deepport.conformance.trace import Script
from deepport_model.transformer import Transformer

_LAYERS: dict[str, Any] = {"num_hidden_layers": 3, "compress_ratios": (0, 4, 128), "hash_layers": (True, False, False)}
"""One of each kind of attention, and routers of both kinds."""

_FUSED: dict[str, Any] = {"head_dim": 512, "qk_rope_head_dim": 64, "index_head_dim": 128, "hidden_size": 128}

_V4, _ENGRAM = model.CONFIGS["tiny-v4"], model.CONFIGS["tiny-v4-engram"].engram
assert _ENGRAM is not None

CONFIGS = {
    "v4": replace(_V4, **_LAYERS),
    "v4-engram": replace(_V4, **_LAYERS, **_FUSED, engram=replace(_ENGRAM, layer_ids=(1,))),
}

_PROMPTS = model.script().prompts
_LONGEST = max(map(len, _PROMPTS))
SCRIPTS = {
    "forward": Script(_PROMPTS[:1], new=0, chunk=_LONGEST),
    "ragged": Script(_PROMPTS, new=0, chunk=_LONGEST),
    "decode": Script(_PROMPTS, new=3, chunk=70),
    "training": None,
}
"""One sequence in one step; three of different lengths in one; the three in chunks, then decoding; a training step."""


@dataclass(frozen=True)
class Part:
    config: str
    dtype: str
    what: str

    def __str__(self) -> str:
        return f"{self.config} {self.dtype} {self.what}"

    @property
    def script(self) -> Script | None:
        return SCRIPTS[self.what]

    def drawn(self) -> Transformer:
        return model.drawn(CONFIGS[self.config], self.dtype)

    def truth(self) -> ModelTruth:
        return model.truth_of(self.drawn(), self.script)

    def judge(self, performance: Performance, found: ModelTruth) -> list[Gate]:
        return model.judge_of(performance, found, self.script, DTYPES[self.dtype])


PARTS = (
    *(Part("v4", "float32", what) for what in SCRIPTS),
    *(Part("v4-engram", "bfloat16", what) for what in SCRIPTS),  # what the fused attention and indexer compute in
    Part("v4-engram", "float32", "decode"),  # greedy tokens are compared in float32 only
)
