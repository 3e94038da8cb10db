"""Every kernel on calls that it takes, by the operators' own gates: `kernels.py FAMILY`; prints a JSON line per call.

Beside the operators' cases: shapes of V4's heads, ties, NaN keys, random ragged batches, and layouts with gaps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch_npu  # noqa: F401  (registers the device)
from npu.attempt import attempt

from deepport.backend import accepted
from deepport.op import operators
from deepport.ops.attention import attention_arguments, index_arguments
from deepport.ops.mhc import collapse_arguments, post_arguments
from deepport.ops.moe import combine_arguments, experts_arguments
from deepport.spec import Case, case
from deepport_npu.kernels import kernels_for

BF16 = torch.bfloat16
VERSIONS = {"torch_npu": "2.13.0", "cann": "9.2.0"}


def cases(operator: str) -> Iterator[Case]:
    yield from operators[operator].cases
    yield from _more().get(operator, ())


def _more() -> dict[str, list[Case]]:
    g = torch.Generator().manual_seed(0)
    return {
        "index_topk": [
            case(index_arguments, k=8, tied=tied, dtype=BF16, heads=8, size=128, page=16, **_batch(g))
            for tied in (False, True, False, True, False, False)
        ],
        "sparse_attention": [
            case(
                attention_arguments, scope=scope, sink=sink, dtype=BF16, heads=4, size=512, page=page, ring=ring,
                window=window, **_batch(g),
            )
            for scope in ("window", "selected", "all")
            for sink, page, ring, window in ((True, 8, False, 12), (False, 16, True, 128), (True, 3, True, 1))
        ],
        "mhc_pre": [case(collapse_arguments, tokens=5, n=n, width=32, outputs="pre", dtype=BF16) for n in (4, 6, 8)],
        "mhc_post": [case(post_arguments, tokens=5, n=n, width=128, dtype=BF16) for n in (4, 6, 8)],
        "moe_combine": [
            case(_unwritten, tokens=19, k=3, dropped=True, dtype=dtype) for dtype in (BF16, torch.float32)
        ] + [case(_part, tokens=19, k=3, dropped=True, dtype=dtype) for dtype in (BF16, torch.float32)],
        "moe_experts": [
            case(experts_arguments, tokens=7, k=3, experts=8, ids="dropped", dtype=BF16, format="plain", limit=None)
        ],
    }  # fmt: skip


def _unwritten(g: torch.Generator, **parameters: Any) -> dict[str, Any]:
    """Nobody has written the rows of dropped copies."""
    found = combine_arguments(g, **parameters)
    found["y"][found["inverse"][found["ids"] < 0].long()] = torch.nan
    return found


def _part(g: torch.Generator, **parameters: Any) -> dict[str, Any]:
    """Some of the tokens, with the rows of all."""
    found = _unwritten(g, **parameters)
    return found | {n: found[n][:7] for n in ("weights", "inverse", "ids")}


def _batch(g: torch.Generator) -> dict[str, tuple[int, ...]]:
    """A few sequences of random lengths, some of them empty, that go on at random positions."""
    count = int(torch.randint(1, 4, (), generator=g))
    lengths = [int(n) for n in torch.randint(0, 30, (count,), generator=g)]
    return {"lengths": (*lengths, 1), "first": tuple(int(n) for n in torch.randint(0, 300, (count + 1,), generator=g))}


def main(family: str) -> None:
    for name, kernels in accepted("npu", kernels_for(family, VERSIONS)).items():
        operator = operators[name]
        for kernel in kernels:
            for found in cases(name):
                arguments = {n: found.arguments().get(n, operator.defaults.get(n)) for n in operator.parameters}
                failed = attempt(operator, kernel, arguments, "npu")
                print(json.dumps({"kernel": f"{name}/{kernel.name}", "case": found.label, "failed": failed}))


if __name__ == "__main__":
    main(sys.argv[1])
