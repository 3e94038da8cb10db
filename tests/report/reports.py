"""Reports for tests, made without running anything: each is what a run of one kind would leave."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable
from typing import Any

from deepport.conformance.result import (
    CaseKey,
    DeviceInfo,
    Gate,
    KernelInfo,
    MutantResult,
    Report,
    Result,
    Status,
    Yardstick,
)
from deepport.report.facts import SPY

OPERATORS = (
    "block_linear", "compress_kv", "engram_conv", "engram_gate", "engram_gather", "engram_hash", "grouped_linear", "index_topk",
    "linear", "mhc_head", "mhc_post", "mhc_pre", "moe_combine", "moe_dispatch", "moe_experts", "quantize", "rms_norm", "rotary",
    "route", "sparse_attention", "swiglu", "write_pages_",
)  # fmt: skip
EXACT = ("engram_hash", "moe_dispatch", "write_pages_")
DTYPES = ("float32", "bfloat16")
ATTACK = "<script>document.title='owned'</script>\x1b[31mred\x1b[0m \u202egnp.exe | `code` [link](javascript:alert(1)) ]]> & \"'"
"""What a hostile backend could put into any text."""


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def gates(operator: str, rng: random.Random, kernel: bool, worst: float = 0.0) -> tuple[Gate, ...]:
    """The gates of one passing result; a `worst` above 1 fails on the own-error ratio."""
    promises = ("inputs unchanged", "guards", SPY)
    contract = tuple(Gate(gate="G1", metric=metric, status="pass") for metric in promises)
    if operator in EXACT:
        return (Gate(gate="G0", metric="bitwise", status="pass", value=0.0, bound=0.0), *contract)
    if not kernel:
        return (
            *contract,
            Gate(gate="G2", metric="rms", status="not applicable", detail="a reference is the definition"),
        )
    share = worst or min(10 ** rng.gauss(-0.5, 0.25), 0.97)
    bound = 2.4e-3
    state = "fail" if share > 1 else "pass"
    where = "output 0, row 3, index [3, 17]: got 1.25, expected 1.125" if share > 1 else ""
    return (
        *contract,
        Gate(gate="G2", metric="rms of output 0", status=state, value=bound * share, bound=bound, detail=where),
        Gate(gate="G2", metric="max of output 0", status="pass", value=0.3 * min(share, 1), bound=1.0),
        Gate(gate="G3", metric="worst row's NMSE", status="pass", value=1e-6 * min(share, 1) ** 2, bound=1e-6),
        Gate(gate="G4", metric="sign test", status="pass", value=abs(rng.gauss(0, 1)), bound=5.0),
    )


def result(
    operator: str = "linear",
    dtype: str = "float32",
    label: str = "T=1 K=64 N=64",
    kernel: str = "",
    status: Status = "pass",
    **given: Any,
) -> Result:
    rng = random.Random(f"{operator}{dtype}{label}")
    implementation = kernel or "reference"
    id = f"{operator}-{digest(operator, dtype, label, implementation)[:8]}"
    answered = status in ("pass", "fail", "gap")
    found: dict[str, Any] = {
        "case": CaseKey(
            grid="operator", label=f"{label} {dtype}", builder=f"{operator}.case", parameters={"T": 1, "K": 64}
        ),
        "serving": True,
        "kernel_hash": digest(kernel) if kernel else "",
        "spec_hash": digest(operator),
        "evidence": "E5",
        "gates": gates(operator, rng, bool(kernel)) if answered else (),
        "nulls": dict.fromkeys(("zeros", "copy", "nan", "stale"), "killed") if answered else {},
        "arguments": {"x": {"dtype": dtype, "shape": [1, 64], "stride": [64, 1]}, "eps": 1e-6},
        "input_hash": digest(label),
        "yardstick": Yardstick(hash=digest(operator, 1), rms=1.6e-3, max=0.01) if kernel and answered else None,
        "seconds": 10 ** rng.gauss(-3, 0.8) if answered else 0.0,
        "bytes": 32768.0,
        "flops": 8192.0,
        "command": f"deepport repro {id}",
    }
    fields = {"id": id, "operator": operator, "dtype": dtype, "implementation": implementation, "status": status}
    return Result(**(fields | found | given))


def mutants(survivor: str = "", error: str = "") -> tuple[MutantResult, ...]:
    faults = {
        "bf16_accumulation": ("the running sum is rounded to bfloat16", "G2 rms, T=8 K=7168 N=64"),
        "dropped_row": ("one row in 4,096 is zero", "G3 worst row, T=4096"),
        "int32_overflow": ("addresses of rows are int32", "G0 bitwise, rows past 2^31 bytes"),
        "stale_output": ("the output is the previous call's", "G1 run twice, T=1"),
    }
    names = [(o, f) for o in OPERATORS for f in faults if digest(o, f)[0] in "0123456" or o == "linear"]
    return (
        *(
            MutantResult(
                name=f,
                operator=o,
                fault=faults[f][0],
                status="survived" if f"{o}/{f}" == survivor else "error" if f"{o}/{f}" == error else "killed",
                by="" if f"{o}/{f}" in (survivor, error) else faults[f][1],
                tried=12,
            )
            for o, f in names
        ),
        MutantResult(
            name="reversed_ties",
            operator="linear",
            fault="ties go to the highest id",
            status="equivalent",
            reason="no ties here",
        ),
    )


def report(results: Iterable[Result], **given: Any) -> Report:
    results = tuple(results)
    kernels = {(r.operator, r.implementation): r.kernel_hash for r in results if r.by_kernel}
    found: dict[str, Any] = {
        "deepport": "0.1.0",
        "created": "2027-02-11T09:30:00+00:00",
        "backend": "cpu",
        "device": DeviceInfo(name="AMD EPYC 9B14", architecture="x86_64 avx512", memory=33_000_000_000),
        "evidence": "E5",
        "profile": "inference",
        "requested": "deepport conform --device cpu --mutants",
        "environment": {"python": "3.11.7", "torch": "2.13.0", "os": "Linux 6.8", "threads": "1"},
        "kernels": tuple(
            KernelInfo(
                operator=o,
                name=k,
                hash=h,
                takes=sum((r.operator, r.implementation) == (o, k) for r in results),
                refuses={"dtype: float64 is not taken": 7, "layout: x is not contiguous": 2},
            )
            for (o, k), h in kernels.items()
        ),
        "results": results,
        "seconds": 372.5,
    }
    return Report(**(found | given)).sealed()


def grid(kernels: float, cases: int = 6, salt: str = "") -> list[Result]:
    """Passing results of every operator; a share of them, by operator, is served by kernels."""
    found = []
    for o in OPERATORS:
        has = int(digest(o)[:4], 16) / 0xFFFF < kernels
        for dtype in ("int64",) if o == "engram_hash" else DTYPES:
            for i in range(cases):
                kernel = f"cpu/{o}" if has and (i % 3 or o != "linear") else ""
                found.append(result(o, dtype, f"T={2**i} K=7168 N=1536{salt}", kernel))
    return found


def references() -> Report:
    """All pass, and nothing but references: the bring-up of a backend without kernels."""
    return report(grid(0.0), profile="bring-up", backend="npu", mutants=mutants())


def conforming() -> Report:
    """Kernels serve half of the operators; all pass."""
    return report(grid(0.5), mutants=mutants())


def without_mutants() -> Report:
    """They were not asked for."""
    return report(grid(0.5))


FAILING_GATE = Gate(
    gate="G2", metric="rms of output 0", status="fail", value=0.018, bound=0.0024, detail="row 3, index [3, 17]"
)


def troubled() -> Report:
    """One of everything that can go wrong."""
    plain = grid(0.5)
    bad = [
        result("linear", "bfloat16", "T=8 K=7168 N=64", "cpu/onednn", "fail", gates=gates("linear", random.Random(1), True, 7.5),
               reason="rms error 7.5 times the bound: the kernel accumulates in bfloat16"),
        result("rms_norm", "bfloat16", "T=8 C=7168", "cpu/fused", "fail", serving=False, gates=(FAILING_GATE,)),
        result("swiglu", "float32", "nan inside", "cpu/swiglu", "fail",
               gates=(Gate(gate="G2", metric="max", status="fail", value=math.nan, bound=1.0, detail="NaN at [0, 0]"),)),
        result("rotary", "float32", "infinite", "cpu/rotary", "fail",
               gates=(Gate(gate="G2", metric="max", status="fail", value=math.inf, bound=1.0, detail="inf at [0, 0]"),)),
        result("moe_experts", "float32", "T=4096", "cpu/experts", "timeout", reason="no answer after 60 s"),
        result("index_topk", "float32", "T=1 far", "cpu/topk", "error", reason="the process died of SIGSEGV"),
        result("sparse_attention", "bfloat16", "K=512", "cpu/flash", "gap",
               reason="notyet: head size 512 needs firmware 9.1 (until 2027-06-30); G2 rms of output 0: 0.018, bound 0.0024",
               link="https://example.org/issues/12"),
        result("quantize", "bfloat16", "fp8_e4m3", "", "unsupported", reason="format: the device has no FP8"),
        result("engram_gather", "float32", "rows past 2^31 bytes", "", "not_run", reason="needs 9 GB of memory, 4 GB are free"),
    ]  # fmt: skip
    return report(
        [*plain, *bad],
        mutants=mutants(survivor="linear/dropped_row"),
        problems=("gap 'rotary: inverse' matches no case: remove it",),
    )


def hostile() -> Report:
    """Attacks in every text that a backend, a driver or a file can choose."""
    attacked = result(
        f"op{ATTACK}", f"dt{ATTACK}", ATTACK, f"cpu/{ATTACK}", "fail", reason=ATTACK, link="javascript:alert(1)", command=ATTACK,
        gates=(Gate(gate="G2", metric=ATTACK, status="fail", value=2.0, bound=1.0, detail=ATTACK),),
        nulls={ATTACK: "survived"},
    )  # fmt: skip
    return report(
        [attacked, *(attacked.model_copy(update={"id": f"{ATTACK}{s}", "status": s}) for s in ("gap", "unsupported", "error"))],
        backend=ATTACK, device=DeviceInfo(name=ATTACK), requested=ATTACK, environment={ATTACK: ATTACK}, problems=(ATTACK,),
        mutants=(MutantResult(name=ATTACK, operator=ATTACK, fault=ATTACK, status="survived", by=ATTACK, reason=ATTACK),),
        complete=False, stopped=ATTACK, operators=(ATTACK,),
        kernels=(KernelInfo(operator=ATTACK, name=ATTACK, hash=ATTACK, takes=1, refuses={ATTACK: 1}),),
    )  # fmt: skip


def many(number: int = 1500, failing: bool = False) -> Report:
    """As many results as a full run has; all of them may fail."""
    each = -(-number // (2 * len(OPERATORS)))
    found = grid(0.6, each + 2)[:number]
    if failing:
        found = [
            r.model_copy(
                update={"status": "fail", "reason": "output 0 differs: " + "x" * 200, "gates": (FAILING_GATE,)}
            )
            for r in found
        ]
    return report(found, mutants=mutants())
