"""vllm-ascend's operators, declared with the schemas that our kernels rely on, stand in on the CPU: `custom.py [NAME SCHEMA]`.

A pair declares an operator otherwise; one without a schema leaves it out. Prints a JSON line per kernel: what it answers to a
call, and what fails of the gates of its operator's cases. The meaning of each stand-in is its page's (capabilities.toml names
them), and what the pages forbid raises.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from npu.attempt import attempt
from torch import Tensor

from deepport.backend import accepted
from deepport.op import operators
from deepport.ops.dense import rotary_arguments
from deepport.ops.mhc import post_arguments
from deepport.spec import FLOATS, Case, case
from deepport_npu.capability import table
from deepport_npu.kernels import kernels_for

SCHEMAS = {n: found.schema for n, chips in table().items() if (found := next(iter(chips.values()))).schema}
USUAL: dict[str, list[Case]] = {
    "mhc_post": [
        case(post_arguments, tokens=t, n=4, width=width, dtype=dtype)
        for t, width, dtype in ((1, 4096, torch.bfloat16), (3, 7168, torch.float16), (2, 4096, torch.float32))
    ],
    "rotary": [
        case(rotary_arguments, shape=shape, pairs=32, inverse=inverse, dtype=dtype)
        for shape in ((3, 4, 512), (5, 128))
        for inverse in (False, True)
        for dtype in FLOATS
    ],
}
"""Calls as V4 makes them."""


def main(changed: dict[str, str]) -> None:
    library = torch.library.Library("_C_ascend", "DEF")
    for name, schema in (SCHEMAS | changed).items():
        if schema:
            library.define(schema)
            library.impl(name, MEANINGS[name], "CompositeExplicitAutograd")
    for name, kernels in accepted("npu", kernels_for("A2", {"torch_npu": "2.13.0", "cann": "9.2.0"})).items():
        for kernel in kernels:
            if kernel.name in SCHEMAS:
                print(json.dumps({"kernel": kernel.name} | _found(name, kernel)))


def _found(name: str, kernel: Any) -> dict[str, Any]:
    operator = operators[name]
    usual = USUAL[name][0].arguments()
    values = tuple(usual.get(n, operator.defaults.get(n)) for n in operator.parameters)
    answer = kernel.supports(operator.signature(values))
    found = [attempt(operator, kernel, _whole(operator, c), "cpu") for c in (*operator.cases, *USUAL[name])]
    ran = [f for f in found if f is not None]
    return {"reason": answer.reason, "code": answer.code, "ran": len(ran), "failed": [f for f in ran if f]}


def _whole(operator: Any, found: Case) -> dict[str, Any]:
    arguments = found.arguments()
    return {n: arguments.get(n, operator.defaults.get(n)) for n in operator.parameters}


def npu_hc_post(x: Tensor, residual: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    _documented(x, residual, post, comb, dims=(3, 4, 3, 4))
    mixed = (comb.float().unsqueeze(-1) * residual.float().unsqueeze(-2)).sum(x.dim() - 1)
    return (post.float().unsqueeze(-1) * x.float().unsqueeze(-2) + mixed).to(x.dtype)


def inplace_partial_rotary_mul(x: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str, partial_slice: list[int]) -> None:
    """`x r1 + rotated x r2` of the slice, in float32 where angles are, rounded once."""
    _documented(x, r1, r2, dims=(4, 4, 4))
    if rotary_mode != "interleave" or r1.shape != r2.shape:
        raise ValueError(f"{rotary_mode}, {r1.shape}, {r2.shape}")
    start, end = partial_slice
    part = x[..., start:end].float()
    turned = torch.stack((-part[..., 1::2], part[..., ::2]), -1).flatten(-2)
    x[..., start:end] = (part * r1 + turned * r2).to(x.dtype)


MEANINGS = {f.__name__: f for f in (npu_hc_post, inplace_partial_rotary_mul)}


def _documented(*tensors: Tensor, dims: tuple[int, ...]) -> None:
    if not all(t.is_contiguous() for t in tensors) or tuple(t.dim() for t in tensors) != dims:
        raise ValueError(f"shapes {[list(t.shape) for t in tensors]}, strides {[t.stride() for t in tensors]}")


def _pairs(words: list[str]) -> Iterator[tuple[str, str]]:
    return zip(words[::2], words[1::2], strict=True)


if __name__ == "__main__":
    main(dict(_pairs(sys.argv[1:])))
