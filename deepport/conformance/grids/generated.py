"""Cases drawn by strategies: ragged batches, odd sizes, lengths about the edges of pages, windows, ratios and blocks.

The draws are the same in every process and on every machine with the same version of hypothesis: they are read off seeded
bytes, as a fuzzer would give them. (Hypothesis's own search also draws constants that it finds in whatever modules are loaded.)
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deepport.formats import PLAIN
from deepport.op import Operator
from deepport.ops.attention import attention_arguments, index_arguments
from deepport.ops.cache import write_arguments
from deepport.ops.compress import compress_arguments
from deepport.ops.dense import (
    block_linear_arguments,
    linear_arguments,
    rms_norm_arguments,
    rotary_angles_arguments,
    rotary_arguments,
)
from deepport.ops.engram import conv_arguments, gate_arguments, gather_arguments, hash_arguments
from deepport.ops.mhc import collapse_arguments, post_arguments
from deepport.ops.moe import (
    combine_arguments,
    dispatch_arguments,
    experts_arguments,
    grouped_arguments,
    route_arguments,
    swiglu_arguments,
)
from deepport.ops.quantize import FORMATS, dequantize_arguments, quantize_arguments
from deepport.spec import FLOATS, Builder, Case, case

GRID, COUNT = "generated", 8
"""The grid's name, and how many cases an operator gets."""

_BYTES, _ATTEMPTS = 4096, 400

Parameters = dict[str, Any]
Strategy = st.SearchStrategy[Parameters]

among = st.sampled_from
dtypes = among(FLOATS)
booleans = among((False, True))
odd = among((1, 2, 3, 5, 7, 13, 16, 17, 31, 33, 48, 63, 64, 65, 96, 127, 129, 160))
"""Sizes, on either side of vectors and tiles."""
tokens = among((0, 0, 1, 1, 2, 3, 7, 17, 33, 63, 64, 65, 129))
row_formats = among((PLAIN, "fp8_e4m3:1x32", "int8:row", "mxfp4"))
all_formats = among((PLAIN, *FORMATS))


def even(sizes: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """Sizes that a packed format can have."""
    return sizes.map(lambda n: 2 * n)


@st.composite
def batches(draw: st.DrawFn, edges: tuple[int, ...] = (), longest: int = 130) -> Parameters:
    """Up to four sequences with `lengths` of new tokens, that go on at `first`, mostly next to an edge."""
    edges = (*edges, 4, 8, 12, 16, 64)
    near = among(sorted({max(m * e + d, 0) for e in edges for m in (0, 1, 2, 3) for d in (-1, 0, 1)}))
    count = draw(among((1, 2, 3, 4)))
    lengths = tuple(min(draw(st.one_of(among((0, 1, 1, 2)), near)), longest) for _ in range(count))
    return {"lengths": lengths, "first": tuple(draw(near) for _ in range(count))}


def merged(*parts: Strategy) -> Strategy:
    """All of these parameters together."""
    return st.tuples(*parts).map(lambda found: {n: v for part in found for n, v in part.items()})


def sized(**sizes: st.SearchStrategy[Any]) -> Strategy:
    return st.fixed_dictionaries(sizes)


STRATEGIES: dict[str, tuple[Builder, Strategy]] = {
    "linear": (
        linear_arguments,
        sized(tkn=st.tuples(tokens, even(odd), odd), dtype=dtypes, format=all_formats, wide=booleans),
    ),
    "block_linear": (
        block_linear_arguments,
        sized(tgkn=st.tuples(tokens, among((1, 2, 3)), even(odd), odd), dtype=dtypes, format=all_formats),
    ),
    "rms_norm": (
        rms_norm_arguments,
        sized(shape=st.one_of(st.tuples(tokens, odd), st.tuples(tokens, odd, odd)), weighted=booleans, dtype=dtypes),
    ),
    "rotary_angles": (
        rotary_angles_arguments,
        sized(tokens=tokens, pairs=odd, ratio=among((1, 3, 4, 128)), depth=among((1, 8, 1 << 20))),
    ),
    "rotary": (
        rotary_arguments,
        among((1, 2, 5, 8, 32)).flatmap(
            lambda pairs: sized(
                shape=st.one_of(
                    st.tuples(tokens, odd.map(lambda n: n + 2 * pairs)),
                    st.tuples(tokens, odd, odd.map(lambda n: n + 2 * pairs)),
                ),
                pairs=st.just(pairs),
                inverse=booleans,
                dtype=dtypes,
            )
        ),
    ),
    "write_pages_": (
        write_arguments,
        merged(batches(), sized(page=among((1, 3, 8, 64)), padding=among((0, 1, 5)), dtype=dtypes, width=odd)),
    ),
    "compress_kv_": (
        compress_arguments,
        merged(
            batches(edges=(128,), longest=300),
            sized(ratio=among((1, 2, 4, 7, 128)), overlap=booleans, dtype=dtypes, width=odd),
        ),
    ),
    "index_topk": (
        index_arguments,
        merged(
            batches(edges=(256,)),
            sized(k=among((1, 3, 8, 64, 100)), tied=st.just(False), dtype=dtypes, heads=among((1, 3, 8))),
            sized(size=odd, page=among((1, 3, 8, 64)), ratio=among((1, 4, 5))),
        ),
    ),
    "sparse_attention": (
        attention_arguments,
        merged(
            batches(edges=(128,), longest=70),
            sized(scope=among(("window", "selected", "all")), sink=booleans, dtype=dtypes, ring=booleans),
            sized(heads=among((1, 3, 8)), size=odd, page=among((1, 3, 8, 64))),
            sized(window=among((1, 2, 12, 64, 128)), k=among((1, 6, 33)), ratio=among((1, 4, 16))),
        ),
    ),
    "route": (
        route_arguments,
        sized(
            tokens=tokens,
            experts=among((8, 13, 64, 257)),
            k=among((1, 2, 6, 8)),
            scoring=among(("sqrtsoftplus", "sigmoid", "softmax")),
            mode=among(("learned", "bare", "tied", "hash")),
            dtype=dtypes,
            scale=among((1.0, 2.5)),
        ),
    ),
    "moe_dispatch": (
        dispatch_arguments,
        sized(tokens=tokens, k=among((1, 2, 6)), experts=among((6, 8, 33)), dropped=booleans, dtype=dtypes, width=odd),
    ),
    "moe_combine": (
        combine_arguments,
        sized(tokens=tokens, k=among((1, 2, 6)), dropped=booleans, dtype=dtypes, width=odd, experts=among((6, 33))),
    ),
    "grouped_linear": (
        grouped_arguments,
        sized(
            counts=st.lists(among((0, 0, 1, 2, 17, 33)), min_size=1, max_size=6).map(tuple),
            kn=st.tuples(even(odd), odd),
            dtype=dtypes,
            format=all_formats,
        ),
    ),
    "swiglu": (swiglu_arguments, sized(shape=st.tuples(tokens, odd), limit=among((None, 0.5, 7.0)), dtype=dtypes)),
    "moe_experts": (
        experts_arguments,
        sized(
            tokens=tokens,
            k=among((1, 2, 6)),
            experts=among((6, 8, 17)),
            ids=among(("distinct", "dropped", "duplicate")),
            dtype=dtypes,
            format=all_formats,
            width=even(odd),
            hidden=even(among((1, 7, 16, 33))),
            limit=among((None, 1.0, 10.0)),
        ),
    ),
    "mhc_pre": (
        collapse_arguments,
        sized(tokens=tokens, n=among((1, 2, 3, 4, 8)), width=odd, outputs=st.just("pre"), dtype=dtypes),
    ),
    "mhc_post": (post_arguments, sized(tokens=tokens, n=among((1, 2, 3, 4, 8)), width=odd, dtype=dtypes)),
    "mhc_head": (
        collapse_arguments,
        sized(tokens=tokens, n=among((1, 2, 3, 4, 8)), width=odd, outputs=st.just("head"), dtype=dtypes),
    ),
    "engram_hash": (
        hash_arguments,
        sized(
            lengths=st.lists(among((0, 1, 2, 3, 9, 40)), min_size=1, max_size=4).map(tuple),
            layers=among((1, 2)),
            orders=among((1, 2, 3, 4)),
            heads=among((1, 3, 8)),
            boundary=among((None, 0, 3)),
            vocabulary=among((4, 7, 99092)),
        ),
    ),
    "engram_gather": (
        gather_arguments,
        sized(
            rows=among((1, 2, 50, 1000)),
            width=even(odd),
            shape=st.one_of(st.tuples(tokens), st.tuples(tokens, among((1, 3, 16)))),
            dtype=dtypes,
            format=row_formats,
        ),
    ),
    "engram_gate": (
        gate_arguments,
        sized(tokens=tokens, n=among((1, 2, 4)), width=odd, zero=among(("half", "copysign", "positive")), dtype=dtypes),
    ),
    "engram_conv_": (
        conv_arguments,
        sized(
            lengths=st.lists(among((0, 1, 2, 9, 33)), min_size=1, max_size=4).map(tuple),
            kernel=among((1, 2, 4)),
            dilation=among((1, 3, 4)),
            dtype=dtypes,
            n=among((1, 2, 4)),
            width=odd,
        ),
    ),
    "quantize": (
        quantize_arguments,
        sized(
            shape=st.tuples(among((1, 2)), odd, even(odd)),
            format=all_formats.filter(lambda f: f != PLAIN),
            power_of_two=booleans,
            dtype=dtypes,
        ),
    ),
    "dequantize": (
        dequantize_arguments,
        sized(
            shape=st.tuples(among((1, 2)), odd, even(odd)),
            format=all_formats.filter(lambda f: f != PLAIN),
            dtype=dtypes,
        ),
    ),
}
STRATEGIES |= {twin: STRATEGIES[f"{twin}_"] for twin in ("write_pages", "compress_kv", "engram_conv")}


@cache
def cases(operator: Operator[..., Any]) -> tuple[Case, ...]:
    """The operator's cases, drawn from a seed of its name; a functional twin has the same."""
    builder, strategy = STRATEGIES[operator.name]
    order = inspect.signature(builder).parameters
    drawn = _draws(strategy.map(lambda found: {n: found[n] for n in order if n in found}), operator.name.rstrip("_"))
    return tuple(replace(case(builder, **parameters), grid=GRID) for parameters in drawn)


def _draws(strategy: Strategy, seed: str) -> list[Parameters]:
    """`COUNT` distinct sets of parameters."""
    found: dict[str, Parameters] = {}

    @settings(database=None, deadline=None, phases=[Phase.generate])
    @given(strategy)
    def note(parameters: Parameters) -> None:
        found.setdefault(repr(parameters), parameters)

    fuzz: Callable[[bytes], Any] = note.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    source = random.Random(seed)
    for _ in range(_ATTEMPTS):
        if len(found) == COUNT:
            break
        fuzz(source.randbytes(_BYTES))
    return list(found.values())
