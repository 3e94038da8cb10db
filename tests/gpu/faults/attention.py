"""Faults of kernels: attention and the indexer."""

import torch

from gpu.mutants import Mutant

F32 = torch.float32
_ATTENTION = {"lengths": (5, 1), "first": (20, 40), "scope": "selected", "sink": True, "dtype": F32, "k": 70}
_INDEX = {"lengths": (9, 1), "first": (60, 5), "k": 4, "tied": False, "dtype": F32}

MUTANTS = (
    Mutant(
        "sparse_attention",
        "a window of one more",
        "attention",
        "position - window_size + 1, 0)",
        "position - window_size, 0)",
        _ATTENTION,
    ),
    Mutant(
        "sparse_attention",
        "a sink forgotten",
        "attention",
        'mask=there, other=float("-inf")) if sunk else none',
        'mask=there, other=float("-inf")) + none if sunk else none',
        _ATTENTION,
    ),
    Mutant(
        "sparse_attention",
        "-1 followed",
        "attention",
        "seen = (entry >= 0) & (entry < compressed",
        "seen = (entry >= -1) & (entry < compressed",
        _ATTENTION,
    ),
    Mutant(
        "sparse_attention",
        "a part without its end",
        "attention",
        "tl.minimum(first + each, end)",
        "first + each",
        {**_ATTENTION, "lengths": (1,), "first": (40,), "window": 90},
    ),
    Mutant(
        "sparse_attention",
        "a row off by one",
        "attention",
        "place * page + entry % page, 0)",
        "place * page + (entry + 1) % page, 0)",
        _ATTENTION,
    ),
    Mutant(
        "sparse_attention",
        "heads behind the last",
        "attention",
        "own = _channels(q, row, there, size, 0, slice)",
        "own = _channels(q, row, row >= 0, size, 0, slice)",
        _ATTENTION,
        guard=True,
    ),
    Mutant(
        "sparse_attention",
        "the first slice again",
        "attention",
        "_channels(pages, row, found, size, first, slice)",
        "_channels(pages, row, found, size, 0, slice)",
        {**_ATTENTION, "size": 320},
    ),
    Mutant("index_topk", "a relu forgotten", "index", "tl.where(found < 0.0, 0.0, found)", "found", _INDEX),
    Mutant(
        "index_topk",
        "an entry too early",
        "index",
        ".to(tl.int32) + 1) // ratio",
        ".to(tl.int32) + 2) // ratio",
        {**_INDEX, "k": 64},
    ),
    Mutant(
        "index_topk",
        "ties to the highest",
        "index",
        "(rank <= ties[:, None])",
        "(rank > tl.sum(ties_here.to(tl.int32), 1)[:, None] - ties[:, None])",
        {**_INDEX, "tied": True},
    ),
)
