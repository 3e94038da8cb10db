"""Faults of kernels: what is kept: Engram, the cache, and compression."""

import torch

from gpu.mutants import Mutant

F32 = torch.float32
_HASH = {"lengths": (5, 2), "layers": 1, "orders": 3, "heads": 3, "boundary": 0, "vocabulary": 4}
_GATE = {"tokens": 2, "n": 2, "width": 33, "zero": "positive", "dtype": F32}
_GATHER = {"rows": 3, "width": 96, "shape": (9,), "format": "mxfp4", "dtype": F32}
_WRITE = {"lengths": (5, 3), "first": (0, 3), "page": 4, "padding": 2, "dtype": F32}
_COMPRESS = {"lengths": (9, 2), "first": (2, 4), "ratio": 4, "overlap": True, "dtype": F32}
_CONV = {"lengths": (3, 1), "kernel": 3, "dilation": 1, "dtype": F32, "width": 9}

MUTANTS = (
    Mutant("engram_hash", "a stop forgotten", "engram", "stop = stop | (earlier < 0)", "stop = (earlier < 0)", _HASH),
    Mutant("engram_hash", "the dividend's sign", "engram", "row + modulus, row)", "row, row)", _HASH),
    Mutant("engram_gate", "a clamp removed", "engram", "tl.maximum(tl.abs(d), clamp)", "tl.abs(d)", _GATE),
    Mutant("engram_gate", "a stride off", "engram", "w_k + stream * width + at", "w_k + at", _GATE),
    Mutant(
        "engram_gate",
        "a mask dropped",
        "engram",
        "tl.load(value + token * width + at, mask=at < width, other=0.0)",
        "tl.load(value + token * width + at)",
        _GATE,
        guard=True,
    ),
    Mutant("engram_gather", "another row's scale", "gather", "(row * scales)[:, None]", "row[:, None]", _GATHER),
    Mutant(
        "engram_gather",
        "a half of the byte twice",
        "numbers",
        "number(bits >> 4, element)",
        "number(bits & 15, element)",
        _GATHER,
    ),
    Mutant(
        "engram_gather",
        "a tail not masked",
        "gather",
        "seen = inside & known[:, None]",
        "seen = (which < wanted)[:, None] & (at >= 0)[None, :]",
        _GATHER,
        guard=True,
    ),
    Mutant(
        "write_pages_",
        "a row off by one",
        "cache",
        "position % page) * width",
        "(position + 1) % page) * width",
        _WRITE,
    ),
    Mutant(
        "write_pages_",
        "padding written",
        "cache",
        "if token < tl.load(cu_seqlens + sequences):",
        "if token >= 0:",
        _WRITE,
    ),
    Mutant(
        "write_pages_",
        "a mask dropped",
        "cache",
        "tl.load(values + token * width + at, mask=at < width)",
        "tl.load(values + token * width + at)",
        _WRITE,
        guard=True,
    ),
    Mutant(
        "compress_kv_",
        "a bias forgotten",
        "compress",
        "    weight += tl.load(bias",
        "    weight += 0.0 * tl.load(bias",
        _COMPRESS,
    ),
    Mutant(
        "compress_kv_",
        "the window before carried",
        "compress",
        "complete - 1, channel",
        "complete - 2, channel",
        _COMPRESS,
    ),
    Mutant(
        "compress_kv_",
        "a race",
        "compress",
        "elif window >= stateful:",
        "elif window >= stateful - 1:",
        {**_COMPRESS, "first": (0, 4)},
        guard=True,
    ),
    Mutant("engram_conv_", "taps reversed", "convolution", "(taken - 1 - back)", "back", _CONV),
    Mutant(
        "engram_conv_",
        "a state not shifted",
        "convolution",
        "tl.load(mine + (row + length) *",
        "tl.load(mine + row *",
        _CONV,
    ),
    Mutant(
        "engram_conv_",
        "a mask dropped",
        "convolution",
        "tl.load(weight + at, mask=there, other=0.0)",
        "tl.load(weight + at)",
        _CONV,
        guard=True,
    ),
)
