"""The suite catches kernels that are wrong, ill-mannered or dishonest, each by its name, and passes honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import backend_source, installed

from deepport.conformance.journal import Journal
from deepport.conformance.result import Gate, MutantResult, Report, Result
from deepport.conformance.run import Request, run
from deepport.conformance.verdict import verdict

pytestmark = pytest.mark.slow


class Nobody:
    def begun(self, cases: int, mutants: int) -> None: ...

    def found(self, item: Result | MutantResult) -> None: ...


def reported(backend: str, *operators: str, profile: str = "inference") -> Report:
    request = Request(backend=backend, operators=operators, profile=profile)  # type: ignore[arg-type]
    return run(request, Nobody(), Journal(None))


def of(report: Report, implementation: str) -> list[Result]:
    found = [r for r in report.results if r.implementation.endswith(f"/{implementation}")]
    assert found, f"{implementation} answered no case"
    return found


def failed(report: Report, implementation: str) -> list[Gate]:
    """The gates that a kernel fails."""
    return [g for r in of(report, implementation) for g in r.gates if g.status == "fail"]


def labels(results: list[Result]) -> str:
    return "; ".join(f"{r.case.grid} {r.case.label}: {r.reason}" for r in results)


NUMBERS = """
@kernel("linear", lambda s: YES if s["format"] == "plain" else no("format", "plain weights only"))
def bf16_accumulation(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain") -> Tensor:
    y = torch.zeros(*x.shape[:-1], w.shape[0], dtype=torch.bfloat16)
    for k in range(0, x.shape[-1], 32):
        y += (x[..., k : k + 32].float() @ w[:, k : k + 32].float().T).bfloat16()
    return y.to(x.dtype)

attend = ops.sparse_attention.reference

@kernel("sparse_attention")
def short_window(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None,
    compressed_table: Tensor | None, indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:
    return attend(
        q, window_pages, window_table, compressed_pages, compressed_table, indices, sink, positions, cu_seqlens,
        scale, window_size - 1, ratio,
    )
"""

PLACES = """
gather = ops.engram_gather.reference

def in_int32(index, row):
    '''Rows of `row` bytes, addressed in 32 bits.'''
    return ((index.int() * row) // row).long()

@kernel("engram_gather")
def int32_gather(
    rows: Tensor, ids: Tensor, scale: Tensor | None = None, format: str = "plain", dtype: torch.dtype = torch.float32
) -> Tensor:
    wrapped = in_int32(ids, rows.shape[1] * rows.element_size())
    if ids.numel() and (ids.min() < 0 or ids.max() >= rows.shape[0]):
        raise IndexError("outside the table")
    return gather(rows, wrapped.clamp(0, max(rows.shape[0] - 1, 0)), scale, format, dtype)

write = ops.write_pages_.reference

@kernel("write_pages_", mutates=("pages",))
def int32_write(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    page = pages.shape[1] * pages.shape[2] * pages.element_size()
    wrapped = in_int32(table, page).clamp(0, pages.shape[0] - 1).int()
    write(pages, wrapped, values, positions, cu_seqlens)

@kernel("swiglu")
def contiguous_only(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    dtype, dense = gate.dtype, torch.empty(gate.shape).stride()
    gate, up = gate.as_strided(gate.shape, dense).float(), up.as_strided(up.shape, dense).float()
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (torch.nn.functional.silu(gate) * up).to(dtype)
"""

MANNERS = """
def normed(x, weight, eps):
    wide = x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else weight * y).to(x.dtype).contiguous()

before, kept, static = {}, {}, {}

@kernel("rms_norm")
def stale(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    result = before.get(x.shape)
    before[x.shape] = normed(x, weight, eps)
    return before[x.shape].clone() if result is None else result.to(x.dtype)

@kernel("rms_norm")
def remembered(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return kept.setdefault((x.shape, x.dtype, weight is None), normed(x, weight, eps)).clone()

@kernel("rms_norm")
def one_buffer(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return static.setdefault((x.shape, x.dtype), torch.empty_like(x).contiguous()).copy_(normed(x, weight, eps))

@kernel("rms_norm")
def last_row_unwritten(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    y[:-1] = normed(x, weight, eps)[:-1]
    return y

@kernel("rms_norm")
def writes_input(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    x.copy_(y)
    return y

@kernel("rms_norm")
def one_token(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    return -y if x.shape[0] == 1 else y

@kernel("rms_norm")
def no_tokens(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return normed(x, weight, eps) if x.numel() else x.new_empty(0)

@kernel("rms_norm")
def unsteady(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    return torch.where(torch.rand(y.shape) < 0.5, y, torch.nextafter(y, torch.zeros_like(y)))

@kernel("rms_norm")
def sees_the_guard(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    return y if x.storage_offset() else y * 1.5

@kernel("rms_norm")
def borrowed(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return ops.rms_norm.reference(x, weight, eps)

@kernel("rms_norm")
def promises(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    raise NotImplementedError("rms_norm is not implemented on Acme One")

asked = set()

def fickle_supports(signature):
    call = str(signature)
    if call in asked:
        return no("shape", "not again")
    asked.add(call)
    return YES

@kernel("swiglu", fickle_supports)
def fickle(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (torch.nn.functional.silu(gate.float()) * up.float()).to(gate.dtype)

@kernel("rotary", lambda signature: signature["xs"])
def cannot_tell(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    return x.clone()

@kernel("rotary")
def asked_in_vain(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    return x.clone()

@kernel("block_linear", lambda s: YES if s["format"] == "plain" else no("format", "plain weights only"))
def another_operator(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain") -> Tensor:
    return ops.linear(x, w[0], scale, format)
"""

SLOPPY = """
@kernel("linear", lambda s: YES if s["format"] == "plain" else no("format", "plain weights only"))
def sloppy(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain") -> Tensor:
    return (x.float() @ w.float().T * 1.02).to(x.dtype)
"""

MEDDLING = """
from dataclasses import replace
from deepport import ops
from deepport.conformance import gates, judge
ops.linear.tolerance = replace(ops.linear.tolerance, rms=1e9, max=1e9)
ops.linear.reference = lambda x, w, scale=None, format="plain": x @ w.T * 1.02
fine = lambda *args, **kwargs: [gates.Gate(gate="G0", metric="bits", status="pass")]
gates.numeric = gates.exact = judge.judge = fine
"""

EASY = """
import torch
from deepport.ops import dense
dense.normal = lambda g, *shape, dtype=torch.float32, scale=1.0: torch.zeros(shape, dtype=dtype)
"""

TRACE = """
import os
with open({path!r}, "a") as file:
    judge = "MKL_CBWR" in os.environ
    file.write("judge\\n" if judge else "worker\\n" if "DEEPPORT_CHECK" in os.environ else "")
"""

HONEST = """
from torch.nn import functional

plain = lambda s: YES if s["format"] == "plain" else no("format", "plain weights only")

@kernel("linear", plain)
def gemm(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain") -> Tensor:
    return functional.linear(x, w)

@kernel("rms_norm")
def rows(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    wide = x.float()
    y = wide / (wide.pow(2).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
    return (y if weight is None else y * weight).to(x.dtype).contiguous()

@kernel("swiglu")
def gated(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    g, u = gate.float(), up.float()
    if limit is not None:
        g, u = g.clamp(max=limit), u.clamp(-limit, limit)
    return (g / (1 + (-g).exp()) * u).to(gate.dtype).contiguous()

@kernel("moe_experts", plain)
def composed(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = "plain",
) -> Tensor:
    rows, offsets, inverse = ops.moe_dispatch(x, ids, w13.shape[0])
    gate, up = ops.grouped_linear(rows, w13, w13_scale, format, offsets).chunk(2, -1)
    y = ops.grouped_linear(ops.swiglu(gate, up, limit), w2, w2_scale, format, offsets)
    return ops.moe_combine(y, weights, inverse, ids)
"""


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The backends of this file, installed. The file that comes back has a line for each process that loads the meddler."""
    folder = tmp_path_factory.mktemp("backends")
    loads = folder / "loads"
    with installed(
        folder / "site",
        numbers=backend_source("numbers", NUMBERS),
        places=backend_source("places", PLACES),
        manners=backend_source("manners", MANNERS),
        meddler=TRACE.format(path=str(loads)) + backend_source("meddler", SLOPPY, start=MEDDLING),
        feeder=backend_source("feeder", SLOPPY, start=EASY),
        honest=backend_source("honest", HONEST),
    ):
        yield loads


@pytest.fixture(scope="module")
def numbers(backends: Path) -> Report:
    return reported("numbers", "linear", "sparse_attention", profile="bring-up")


@pytest.fixture(scope="module")
def places(backends: Path) -> Report:
    return reported("places", "engram_gather", "write_pages_", "swiglu")


@pytest.fixture(scope="module")
def manners(backends: Path) -> Report:
    return reported("manners", "rms_norm", "swiglu", "rotary", "block_linear", profile="bring-up")


def test_sums_in_bf16_are_seen(numbers: Report) -> None:
    found = of(numbers, "bf16_accumulation")
    assert {r.operator for r in found if r.status == "fail"} == {"linear"}
    assert {g.gate for g in failed(numbers, "bf16_accumulation")} >= {"G2"}


def test_a_window_that_is_short_by_one_is_seen(numbers: Report) -> None:
    found = of(numbers, "short_window")
    assert "fail" in {r.status for r in found} and "G2" in {g.gate for g in failed(numbers, "short_window")}


@pytest.mark.parametrize("name", ["int32_gather", "int32_write"])
def test_32_bit_addresses_are_seen_far_away_and_only_there(places: Report, name: str) -> None:
    wrong = {r.case.variant for r in of(places, name) if r.status == "fail"}
    right = {r.case.variant for r in of(places, name) if r.status == "pass"}
    assert wrong == {"far"} and "far" not in right, labels(of(places, name))


def test_a_kernel_that_ignores_strides_is_seen_where_there_are_some(places: Report) -> None:
    wrong = {r.case.variant for r in of(places, "contiguous_only") if r.status != "pass"}
    assert wrong == {"strided"}, labels([r for r in of(places, "contiguous_only") if r.status != "pass"])


MANNERED = {
    "stale": {"G1 reads only what it may", "G2 output 0 rms"},
    "remembered": {"G2 output 0 rms"},
    "one_buffer": {"G1 new memory"},
    "last_row_unwritten": {"G0 output 0 infinities and NaN"},
    "writes_input": {"G1 inputs unchanged"},
    "one_token": {"G2 output 0 rms"},
    "no_tokens": {"G1 shapes"},
    "unsteady": {"G1 same bits again"},
    "sees_the_guard": {"G1 reads only what it may"},
    "borrowed": {"G1 computes by itself"},
    "fickle": {"G1 served by"},
    "asked_in_vain": {"G2 output 0 rms"},
    "another_operator": {"G2 output 0 rms"},
}
"""By the kernel's name, gates that must see it."""


@pytest.mark.parametrize("name", MANNERED)
def test_ill_mannered_kernels_are_seen(manners: Report, name: str) -> None:
    found = {f"{g.gate} {g.metric}" for g in failed(manners, name)}
    assert found >= MANNERED[name], found


def test_each_fault_is_told_by_the_kernels_name(manners: Report) -> None:
    failing = {r.implementation for r in manners.results if r.status in ("fail", "error")}
    named = {f"manners/{name}" for name in (*MANNERED, "promises", "cannot_tell")}
    assert failing == named


def test_only_the_sizes_that_a_kernel_gets_wrong_fail(manners: Report) -> None:
    wrong = {r.case.parameters["shape"][0] for r in of(manners, "one_token") if r.status != "pass"}
    assert wrong == {1}
    wrong = {r.case.parameters["shape"][0] for r in of(manners, "no_tokens") if r.status != "pass"}
    assert wrong == {0}


def test_a_kernel_that_says_yes_and_raises_is_an_error_and_no_lack_of_support(manners: Report) -> None:
    assert {(r.status, r.reason) for r in of(manners, "promises")} == {
        ("error", "not implemented: rms_norm is not implemented on Acme One")
    }


def test_a_kernel_that_cannot_be_asked_is_an_error_where_production_would_stop(manners: Report) -> None:
    assert {(r.status, r.serving, r.reason) for r in of(manners, "cannot_tell")} == {
        ("error", True, "supports() raised KeyError: 'xs'")
    }
    assert not any(r.serving for r in of(manners, "asked_in_vain"))
    takes = {k.name: k.takes for k in manners.kernels if k.operator == "rotary"}
    assert takes["cannot_tell"] == 0 and takes["asked_in_vain"] > 0


def test_the_verdict_of_liars_is_that_they_lie(numbers: Report, places: Report, manners: Report) -> None:
    for report in (numbers, places, manners):
        assert verdict(report).word == "does not conform"


def test_meddling_with_the_suite_does_not_help(backends: Path) -> None:
    """The kernel's process has its own gates, tolerances and references; the judge's never loads the backend."""
    report = reported("meddler", "linear", profile="bring-up")
    drawn = [r for r in of(report, "sloppy") if 0 not in r.case.parameters["tkn"]]
    assert drawn and {r.status for r in drawn} == {"fail"}, labels(drawn)
    assert "G2" in {g.gate for g in failed(report, "sloppy")}
    assert set(backends.read_text().splitlines()) == {"worker"}, "the judge loaded the backend"


def test_other_inputs_than_the_cases_are_refused(backends: Path) -> None:
    """Of zeros every product is right."""
    report = reported("feeder", "linear", profile="bring-up")
    drawn = [r for r in of(report, "sloppy") if 0 not in r.case.parameters["tkn"]]
    assert drawn and {r.status for r in drawn} == {"error"}
    assert all("its inputs are not those of the case" in r.reason for r in drawn)


def test_honest_kernels_pass_everything(backends: Path) -> None:
    report = reported("honest", "linear", "rms_norm", "swiglu", "moe_experts")
    wrong = [r for r in report.results if r.status != "pass"]
    assert not wrong, labels(wrong)
    found = verdict(report)
    assert found.word == "conforms" and found.by_kernels > 150
    assert f"{found.by_kernels} by 4 kernels, {found.passed - found.by_kernels} by references" in found.headline
    assert "E4, executed by an interpreter or a simulator" in found.headline
