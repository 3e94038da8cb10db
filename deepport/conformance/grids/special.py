"""Cases at the limits: other layouts, magnitudes, ties, NaN where the contract speaks of it, far memory, and refusals.

Magnitudes stay within what float32 arithmetic of the definition holds, 3.4e38: `huge` arguments make sums of at most 1e37, and
squares where something is squared; `tiny` ones make products whose squares underflow, but results that do not; `subnormal` ones
are for copies, which keep every bit. Below float32's least normal number a result may be flushed to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from deepport.conformance.grids.changes import FAULTS, Changes, changed, name_of, refused
from deepport.op import Operator
from deepport.spec import FLOATS, Builder, Case, case

GRID = "special"

Cases = Iterator[Case]
_INF, _NAN = float("inf"), float("nan")

_WRITE: dict[str, Any] = {"lengths": (5, 0, 9), "first": (0, 3, 7), "page": 4, "padding": 3}
_COMPRESS: dict[str, Any] = {"lengths": (9, 0, 21, 3), "first": (0, 5, 2, 4), "ratio": 4}
_INDEX: dict[str, Any] = {"lengths": (9, 0, 3), "first": (100, 5, 41), "k": 8, "tied": False}
_ATTENTION: dict[str, Any] = {"lengths": (9, 0, 3), "first": (30, 5, 41), "sink": True}
_ROUTE: dict[str, Any] = {"tokens": 17, "experts": 16, "k": 4}
_GATHER: dict[str, Any] = {"rows": 50, "width": 64, "shape": (7, 4)}
_GATE: dict[str, Any] = {"tokens": 5, "n": 4, "width": 33}
_CONV: dict[str, Any] = {"lengths": (0, 9, 2, 30), "kernel": 4, "dilation": 3}
_EXPERTS: dict[str, Any] = {"tokens": 9, "k": 3, "experts": 8, "ids": "distinct"}
_STREAMS: dict[str, Any] = {"tokens": 9, "n": 4, "width": 33}
_PLAIN = {"format": "plain"}
_FP8, _FP4 = {"format": "fp8_e4m3:32x32"}, {"format": "mxfp4"}

Base = dict[str, Any]

_LAYOUTS: dict[str, tuple[Base, ...]] = {
    "block_linear": ({"tgkn": (5, 2, 64, 40), **_PLAIN}, {"tgkn": (5, 2, 64, 40), **_FP8}),
    "compress_kv": ({**_COMPRESS, "overlap": True}, {**_COMPRESS, "overlap": False}),
    "dequantize": ({"shape": (2, 70, 64), **_FP8}, {"shape": (2, 70, 64), **_FP4}),
    "engram_conv": (_CONV,),
    "engram_gate": ({**_GATE, "zero": "half"},),
    "engram_gather": ({**_GATHER, **_PLAIN}, {**_GATHER, "format": "fp8_e4m3:1x32"}, {**_GATHER, **_FP4}),
    "engram_hash": ({"lengths": (0, 9, 2), "layers": 2, "orders": 2, "heads": 3, "boundary": None, "vocabulary": 7},),
    "grouped_linear": ({"counts": (3, 0, 5), "kn": (64, 40), **_PLAIN}, {"counts": (3, 0, 5), "kn": (64, 40), **_FP4}),
    "index_topk": (_INDEX,),
    "linear": ({"tkn": (5, 128, 40), **_PLAIN}, {"tkn": (5, 128, 40), **_FP8}),
    "mhc_head": ({**_STREAMS, "outputs": "head"},),
    "mhc_post": (_STREAMS,),
    "mhc_pre": ({**_STREAMS, "outputs": "pre"},),
    "moe_combine": ({"tokens": 19, "k": 3, "dropped": True},),
    "moe_dispatch": ({"tokens": 19, "k": 3, "experts": 8, "dropped": True},),
    "moe_experts": ({**_EXPERTS, **_PLAIN}, {**_EXPERTS, **_FP4}),
    "quantize": (
        {"shape": (40, 160), "power_of_two": True, **_FP8},
        {"shape": (40, 160), "power_of_two": True, **_FP4},
    ),
    "rms_norm": ({"shape": (5, 2, 64), "weighted": True},),
    "rotary": ({"shape": (7, 2, 64), "pairs": 16, "inverse": False}, {"shape": (5, 24), "pairs": 4, "inverse": True}),
    "rotary_angles": ({"tokens": 7, "pairs": 16, "ratio": 4, "depth": 4096},),
    "route": (
        {**_ROUTE, "scoring": "sqrtsoftplus", "mode": "learned"},
        {**_ROUTE, "scoring": "softmax", "mode": "hash"},
    ),
    "sparse_attention": tuple({**_ATTENTION, "scope": scope} for scope in ("window", "selected", "all")),
    "swiglu": ({"shape": (5, 48), "limit": 1.0},),
    "write_pages": (_WRITE,),
}
"""By operator, or its functional twin: ordinary arguments, to be laid out with gaps between rows, and to be changed."""


def _times(factor: float, *names: str) -> Changes:
    return tuple((n, "times", factor) for n in names)


def _fill(value: float, *names: str) -> Changes:
    return tuple((n, "fill", value) for n in names)


_CHANGES: dict[str, dict[str, Changes]] = {
    "block_linear": {"huge": _times(1e17, "x", "w"), "tiny": _times(1e-15, "x", "w")},
    "compress_kv": {
        "huge": (*_times(1e36, "kv"), *_times(100.0, "gate")),
        "tiny": _times(1e-30, "kv"),
        "all tied": _fill(0.0, "gate", "position_bias"),
        "one gate -inf": (("gate", "set", (1, -_INF)),),
    },
    "engram_conv": {"huge": _times(1e17, "gated"), "tiny": _times(1e-30, "gated")},
    "engram_gate": {
        "huge": (*_times(1e16, "hidden", "key"), *_times(1e36, "value")),
        "tiny": _times(1e-20, "hidden", "key"),
        "all zero": _fill(0.0, "hidden", "key"),
    },
    "engram_gather": {"huge": _times(1e37, "rows"), "subnormal": _times(1e-39, "rows"), "one row": _fill(3, "ids")},
    "engram_hash": {
        "one token": _fill(3, "ids"),
        "no past": _fill(-1, "history"),
        "all dead": _fill(True, "dead"),
        "least multiplier": _fill(-(2**63), "multipliers"),
    },
    "grouped_linear": {"huge": _times(1e17, "x", "w"), "tiny": _times(1e-15, "x", "w"), "no rows": _fill(0, "offsets")},
    "index_topk": {
        "huge": _times(1e16, "q", "pages"),
        "tiny": _times(1e-15, "q", "pages"),
        "all tied": _fill(1.0, "pages"),
        "all zero": _fill(0.0, "weights"),
        "negative": _fill(-1.0, "weights"),
        "some NaN": (("pages", "entry", ("table", 0, 3, _NAN)), ("pages", "entry", ("table", 0, 20, _NAN))),
        "all NaN": _fill(_NAN, "pages"),
        "one infinite": (("pages", "entry", ("table", 0, 3, _INF)),),
    },
    "linear": {"huge": _times(1e17, "x", "w"), "tiny": _times(1e-15, "x", "w")},
    "mhc_head": {"huge": _times(1e16, "streams"), "tiny": _times(1e-25, "streams"), "steep": _fill(100.0, "scale")},
    "mhc_post": {"huge": _times(1e36, "y", "streams"), "tiny": _times(1e-30, "y", "streams")},
    "mhc_pre": {"huge": _times(1e16, "streams"), "tiny": _times(1e-25, "streams"), "steep": _fill(30.0, "scale")},
    "moe_combine": {"huge": _times(1e36, "y"), "tiny": _times(1e-30, "y"), "all dropped": _fill(-1, "ids")},
    "moe_dispatch": {
        "huge": _times(1e37, "x"),
        "subnormal": _times(1e-39, "x"),
        "all dropped": _fill(-1, "ids"),
        "one expert": _fill(5, "ids"),
    },
    "moe_experts": {
        "huge": _times(1e30, "x"),
        "tiny": _times(1e-10, "x"),
        "all dropped": _fill(-1, "ids"),
        "one expert": _fill(5, "ids"),
    },
    "quantize": {
        "huge": _times(1e35, "x"),
        "tiny": _times(1e-30, "x"),
        "all zero": _fill(0.0, "x"),
        "all tied": _fill(0.75, "x"),
    },
    "rms_norm": {"huge": _times(1e17, "x"), "tiny": _times(1e-25, "x"), "all zero": _fill(0.0, "x")},
    "rotary": {"huge": _times(1e36, "x"), "tiny": _times(1e-30, "x")},
    "rotary_angles": {
        "no positions": _fill(-1, "positions"),
        "a million tokens": _fill(1 << 20, "positions"),
        "no turning": _fill(0.0, "frequencies"),
    },
    "route": {
        "huge": _times(1e4, "logits"),
        "tiny": _times(1e-20, "logits"),
        "all tied": _fill(0.5, "logits"),
        "all underflow": _fill(-1e4, "logits"),
    },
    "sparse_attention": {
        "huge": _times(1e16, "q", "window_pages"),
        "tiny": _times(1e-15, "q", "window_pages"),
        "all tied": _fill(0.0, "q"),
        "no sink": _fill(-_INF, "sink"),
        "large sink": _fill(200.0, "sink"),
        "nothing in sight": _fill(-1, "positions"),
    },
    "swiglu": {
        "huge": _times(1e16, "gate", "up"),
        "tiny": _times(1e-15, "gate", "up"),
        "far below zero": _fill(-1e4, "gate"),
    },
    "write_pages": {"huge": _times(1e37, "values"), "subnormal": _times(1e-39, "values"), "NaN": _fill(_NAN, "values")},
}
"""By operator: what is done to the first of its ordinary arguments."""

_REFUSALS: dict[str, tuple[tuple[str, Base], ...]] = {
    "dequantize": (("an unknown format", {"shape": (4, 64), **_FP8}),),
    "engram_gate": (("an unknown convention", {**_GATE, "zero": "half"}),),
    "engram_gather": (
        ("an id behind the table", {**_GATHER, **_PLAIN}),
        ("a negative id", {**_GATHER, **_PLAIN}),
        ("a block of several rows", {**_GATHER, "format": "fp8_e4m3:1x32"}),
    ),
    "linear": (("an unknown format", {"tkn": (5, 64, 32), **_FP8}),),
    "quantize": tuple(
        (fault, {"shape": (4, 64), "power_of_two": True, **_FP8})
        for fault in ("a NaN", "an infinity", "an unknown format")
    ),
    "route": (
        ("an unknown scoring", {**_ROUTE, "scoring": "sigmoid", "mode": "learned"}),
        ("a table without ids", {**_ROUTE, "scoring": "sigmoid", "mode": "hash"}),
        ("ids without a table", {**_ROUTE, "scoring": "sigmoid", "mode": "hash"}),
    ),
    "write_pages": (("a position behind the table", _WRITE), ("a negative position", _WRITE)),
}

_FAR: dict[str, tuple[Base, ...]] = {
    "engram_gather": ({**_GATHER, **_PLAIN}, {**_GATHER, "format": "fp8_e4m3:1x32"}),
    "index_topk": ({**_INDEX, "size": 64},),
    "sparse_attention": tuple({**_ATTENTION, "scope": scope} for scope in ("window", "selected", "all")),
    "write_pages_": (_WRITE,),
}
"""Rows past 2^31 bytes and past 2^31 elements (`deepport.conformance.variants`)."""


def cases(operator: Operator[..., Any]) -> Cases:
    """All of the operator's, in every float dtype that makes a difference."""
    builder, kind = next(iter(operator.cases)).builder, operator.name.rstrip("_")
    for given in layouts(kind):
        yield _case("strided", builder, given, variant="strided")
    for given in (t for base in _FAR.get(operator.name, ()) for t in _typed(kind, base)):
        yield _case("far", builder, given, variant="far")
    for label, changes in _CHANGES.get(kind, {}).items():
        for given in _typed(kind, _LAYOUTS[kind][0]):
            yield _changed(operator, builder, given, label, changes)
    for fault, base in _REFUSALS.get(kind, ()):
        yield _refused(operator, builder, {**base, "dtype": torch.float32}, fault)


def layouts(kind: str) -> list[Base]:
    """An operator's ordinary arguments, in every float dtype."""
    return [t for base in _LAYOUTS[kind] for t in _typed(kind, base)]


def _typed(kind: str, given: Base) -> list[Base]:
    """In every float dtype; hashes and angles have none."""
    return [given] if kind in ("engram_hash", "rotary_angles") else [{**given, "dtype": dtype} for dtype in FLOATS]


def _case(label: str, builder: Builder, given: Base, variant: str) -> Case:
    plain = case(builder, **given)
    return replace(plain, label=f"{label}: {plain.label}", grid=GRID, variant=variant)


def _changed(operator: Operator[..., Any], builder: Builder, given: Base, label: str, changes: Changes) -> Case:
    parameters = {"operator": operator.name, "builder": name_of(builder), "given": given, "changes": changes}
    return Case(f"{label}: {case(builder, **given).label}", changed, parameters, GRID)


def _refused(operator: Operator[..., Any], builder: Builder, given: Base, fault: str) -> Case:
    parameters = {"operator": operator.name, "builder": name_of(builder), "given": given, "fault": fault}
    label = f"{fault}: {case(builder, **given).label}"
    return Case(label, refused, parameters, GRID, raises=FAULTS[fault].raises)
