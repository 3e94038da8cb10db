"""The configuration of a DeepSeek-V4 model, with or without Engram, in one spelling.

`deepport_model.checkpoint` reads both spellings that checkpoints use; everything else sees this one, whose names are
DeepSeek's own (`config.json` of DeepSeek-V4-Flash, and of the Engram demo).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deepport.errors import BadInput


@dataclass(frozen=True)
class Yarn:
    """YaRN's scaling of the compressed layers' rotary frequencies (arXiv 2309.00071). V4 does not scale cos and sin."""

    factor: float = 16.0
    original_max_position_embeddings: int = 65536
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0


@dataclass(frozen=True)
class EngramConfig:
    """Hashed n-gram memory (arXiv 2601.07372).

    Attributes:
        layer_ids: the layers before whose attention a memory is added to the streams.
        engram_vocab_size: per n-gram order (2 first), the table size from which the heads' primes are searched.
        max_ngram_size: the longest n-gram, N.
        n_embed_per_ngram: channels per n-gram order, over all its heads.
        n_head_per_ngram: hash heads per n-gram order.
        pad_id: token id, before compression, that stands for what is not there.
        seed: of the hash multipliers.
        kernel_size: of the short convolution, whose dilation is max_ngram_size; 0 for none.
        boundary_id: token id, before compression, that ends the look-back; None for none.
        compressed_vocab_size: distinct compressed token ids; the hash depends on it.
        zero: the gate's convention where the dot product is exactly 0 (`deepport.ops.engram_gate`).
    """

    layer_ids: tuple[int, ...]
    engram_vocab_size: tuple[int, ...]
    compressed_vocab_size: int
    max_ngram_size: int = 3
    n_embed_per_ngram: int = 512
    n_head_per_ngram: int = 8
    pad_id: int = 0
    seed: int = 0
    kernel_size: int = 4
    boundary_id: int | None = None
    zero: str = "half"

    @property
    def heads(self) -> int:
        """Rows gathered for a token in one layer."""
        return (self.max_ngram_size - 1) * self.n_head_per_ngram

    @property
    def row_width(self) -> int:
        return self.n_embed_per_ngram // self.n_head_per_ngram

    @property
    def width(self) -> int:
        """Channels gathered for a token in one layer."""
        return self.heads * self.row_width


@dataclass(frozen=True)
class Config:
    """A DeepSeek-V4 model.

    Attributes:
        compress_ratios: per layer, tokens per compressed cache entry: 0 (window only), 4-like with overlap and an indexer (CSA)
            or 128-like without (HCA); `csa_ratio` is the one that means CSA.
        hash_layers: per layer, whether its experts are chosen by token id.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    compress_ratios: tuple[int, ...]
    hash_layers: tuple[bool, ...]
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_shared_experts: int = 1
    csa_ratio: int = 4
    sliding_window: int = 128
    scoring_func: str = "sqrtsoftplus"
    routed_scaling_factor: float = 1.5
    swiglu_limit: float | None = 10.0
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    yarn: Yarn | None = field(default_factory=Yarn)
    max_position_embeddings: int = 1048576
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    initializer_range: float = 0.02
    engram: EngramConfig | None = None

    def overlaps(self, layer: int) -> bool:
        """Whether a layer compresses with overlap and selects by an indexer (CSA)."""
        return self.compress_ratios[layer] == self.csa_ratio

    def __post_init__(self) -> None:
        _check(self)


def _check(c: Config) -> None:
    """Refuse what cannot be a model, naming the field."""
    positive = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads head_dim qk_rope_head_dim q_lora_rank o_groups o_lora_rank "
        "n_routed_experts num_experts_per_tok moe_intermediate_size index_n_heads index_head_dim index_topk n_shared_experts "
        "sliding_window hc_mult hc_sinkhorn_iters max_position_embeddings"
    )
    for name in positive.split():
        if not 1 <= getattr(c, name) < 2**31:
            raise BadInput(f"config: {name} is {getattr(c, name)}; it must be between 1 and 2^31")
    for name in ("compress_ratios", "hash_layers"):
        if len(getattr(c, name)) != c.num_hidden_layers:
            raise BadInput(
                f"config: {name} describes {len(getattr(c, name))} layers, but the model has {c.num_hidden_layers}"
            )
    rules = (
        (c.num_experts_per_tok <= c.n_routed_experts, "num_experts_per_tok exceeds n_routed_experts"),
        (c.num_attention_heads % c.o_groups == 0, "num_attention_heads is not a multiple of o_groups"),
        (c.qk_rope_head_dim % 2 == 0, "qk_rope_head_dim is odd"),
        (
            c.qk_rope_head_dim <= min(c.head_dim, c.index_head_dim),
            "qk_rope_head_dim exceeds head_dim or index_head_dim",
        ),
        (all(r >= 0 for r in c.compress_ratios), "compress_ratios has a negative entry"),
        (c.scoring_func in ("sqrtsoftplus", "sigmoid", "softmax"), f"scoring_func {c.scoring_func!r} is unknown"),
    )
    for holds, text in rules:
        if not holds:
            raise BadInput(f"config: {text}")
    if c.engram is not None:
        _check_engram(c, c.engram)


def _check_engram(c: Config, e: EngramConfig) -> None:
    rules = (
        (all(0 <= i < c.num_hidden_layers for i in e.layer_ids), "layer_ids names a layer that is not there"),
        (len(set(e.layer_ids)) == len(e.layer_ids) > 0, "layer_ids is empty or repeats a layer"),
        (2 <= e.max_ngram_size <= 16, "max_ngram_size is not between 2 and 16"),
        (len(e.engram_vocab_size) == e.max_ngram_size - 1, "engram_vocab_size needs one entry per n-gram order from 2"),
        (all(2 <= s < 2**40 for s in e.engram_vocab_size), "engram_vocab_size is not between 2 and 2^40"),
        (
            e.n_head_per_ngram >= 1 and e.n_embed_per_ngram % e.n_head_per_ngram == 0,
            "n_head_per_ngram does not divide n_embed_per_ngram",
        ),
        (1 <= e.compressed_vocab_size <= c.vocab_size, "compressed_vocab_size is not between 1 and vocab_size"),
        (0 <= e.pad_id < c.vocab_size, "pad_id is not a token"),
        (e.boundary_id is None or 0 <= e.boundary_id < c.vocab_size, "boundary_id is not a token"),
        (e.kernel_size >= 0, "kernel_size is negative"),
        (e.zero in ("half", "copysign", "positive"), f"zero {e.zero!r} is unknown"),
    )
    for holds, text in rules:
        if not holds:
            raise BadInput(f"config: engram: {text}")
