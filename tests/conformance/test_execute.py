"""Each check of gate G1 passes an honest kernel and is tripped by the fault that it is for, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from deepport import ops
from deepport.conformance.execute import Execution, Implementation, execute
from deepport.op import Operator
from deepport.ops.cache import write_arguments
from deepport.ops.dense import rms_norm_arguments

CPU = torch.device("cpu")
EPS = 1e-6
Arguments = dict[str, Any]


def run(
    kernel: Callable[..., Any],
    operator: Operator[..., Any] = ops.rms_norm,
    arguments: Arguments | None = None,
    **how: Any,
) -> Execution:
    given = norm_arguments() if arguments is None else arguments
    return execute(Implementation(operator, "test/kernel", kernel, False, CPU, None), given, **how)


def norm_arguments() -> Arguments:
    generator = torch.Generator().manual_seed(0)
    return rms_norm_arguments(generator, shape=(6, 16), weighted=True, dtype=torch.float32)


def pages_arguments() -> Arguments:
    generator = torch.Generator().manual_seed(0)
    return write_arguments(generator, lengths=(5, 0, 9), first=(0, 3, 7), page=4, padding=3, dtype=torch.float32)


def failed(done: Execution) -> dict[str, str]:
    assert done.gates and all(g.gate == "G1" for g in done.gates)
    return {g.metric: g.detail for g in done.gates if g.status == "fail"}


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """An honest kernel."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def write(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    """An honest kernel."""
    for b, (low, high) in enumerate(zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)):
        for row in range(low, high):
            place = int(positions[row])
            pages[int(table[b, place // pages.shape[1]]), place % pages.shape[1]] = values[row]


@pytest.mark.parametrize("strided", [False, True])
def test_honest_kernels_pass(strided: bool) -> None:
    done = run(norm, strided=strided)
    assert failed(done) == {} and done.outputs is not None and len(done.outputs) == 1
    assert done.seconds > 0
    written = run(write, ops.write_pages_, pages_arguments(), strided=strided)
    assert failed(written) == {} and written.outputs is not None
    expected = pages_arguments()
    ops.write_pages_.reference(**expected)
    assert torch.equal(written.outputs[0], expected["pages"])


def test_references_pass_as_themselves() -> None:
    """The spy is for kernels: a reference is its own reference."""
    subject = Implementation(ops.rms_norm, "reference", ops.rms_norm.reference, True, CPU, None)
    assert failed(execute(subject, norm_arguments())) == {}


def past_the_end(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    found = torch.empty_like(x).copy_(norm(x, weight, eps))
    end = found.storage_offset() + found.numel()
    if (end + 1) * 4 <= found.untyped_storage().nbytes():  # without guards that is somebody else's memory
        found.as_strided((1,), (1,), end).zero_()
    return found


def past_an_input(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    found, end = norm(x, weight, eps), weight.storage_offset() + weight.numel()
    if (end + 1) * 4 <= weight.untyped_storage().nbytes():
        weight.as_strided((1,), (1,), end).zero_()
    return found


def scratches(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    found = norm(x, weight, eps)
    weight[0] += 1
    return found


def in_place(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.copy_(norm(x, weight, eps))


def unwritten(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    found = torch.empty_like(x)
    found[:-1] = norm(x, weight, eps)[:-1]
    return found


def hands_on(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return ops.rms_norm.reference(x, weight, eps)


def by_size(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return norm(x, weight, eps) * (1 + 2**-20 * (len(x) > 3))


def forgetful() -> Callable[..., Tensor]:
    calls = count()
    return lambda x, weight, eps: norm(x, weight, eps) * (1 + 2**-20 * (next(calls) % 2))


@pytest.mark.parametrize(
    ("kernel", "metrics"),
    [
        (past_the_end, {"guards"}),
        (past_an_input, {"guards"}),
        (in_place, {"inputs unchanged", "own memory"}),
        (hands_on, {"computes by itself"}),
        (by_size, {"same bits in another batch"}),
        (forgetful(), {"same bits again"}),
        (lambda x, weight, eps: norm(x, weight, eps).double(), {"shapes"}),
        (lambda x, weight, eps: norm(x, weight, eps)[:-1], {"shapes"}),
        (lambda x, weight, eps: norm(x, weight, eps).T.contiguous().T, {"shapes"}),
        (lambda x, weight, eps: (norm(x, weight, eps), x.clone()), {"shapes"}),
        (lambda x, weight, eps: None, {"shapes"}),
    ],
)
def test_a_fault_trips_its_check(kernel: Callable[..., Any], metrics: set[str]) -> None:
    done = run(kernel)
    # What a kernel damages may change what it computes next.
    assert metrics <= set(failed(done)) <= metrics | {"same bits again", "same bits in another batch"}
    assert all(failed(done).values())


def test_stale_memory_is_seen() -> None:
    """As poison, or, where the memory held something else at each call, as bits that change."""
    seen = set(failed(run(unwritten)))
    assert seen & {"reads only what it may", "same bits again"}


def remembers() -> Callable[..., Tensor]:
    known: list[Tensor] = []

    def kernel(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        known[:] = known or [norm(x, weight, eps)]
        return known[0].clone()

    return kernel


def test_what_is_remembered_is_a_wrong_answer() -> None:
    """To the call itself it is the right one, and only another call's values tell."""
    other = norm_arguments() | {"x": norm_arguments()["x"] * 2 + 1}
    right = norm(**norm_arguments())
    alone, later = run(remembers()), run(remembers(), earlier=other)
    assert alone.outputs is not None and torch.equal(alone.outputs[0], right)
    assert later.outputs is not None and torch.equal(later.outputs[0], norm(**other))


def test_memory_is_not_reused_for_another_answer() -> None:
    held = torch.empty(6, 16)
    assert set(failed(run(lambda x, weight, eps: held[: len(x)].copy_(norm(x, weight, eps))))) == {"new memory"}


def test_what_has_another_shape_is_not_judged() -> None:
    assert run(lambda x, weight, eps: norm(x, weight, eps)[:-1]).outputs is None


def test_scratching_an_input_is_named() -> None:
    assert failed(run(scratches))["inputs unchanged"] == "weight was written to"


def test_a_result_that_is_a_view_is_named() -> None:
    assert failed(run(in_place))["own memory"] == "a result is a view of x"


def test_the_spy_leaves_no_trace() -> None:
    before = ops.rms_norm.reference
    run(hands_on)
    assert ops.rms_norm.reference is before


def reads_padding(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    write(pages, table, values, positions, cu_seqlens)
    pages[int(table[0, 0]), 0] += values[-1] * 1e-30  # finite padding would not show


def test_padding_is_poison() -> None:
    done = run(reads_padding, ops.write_pages_, pages_arguments())
    assert set(failed(done)) == {"reads only what it may"}
    assert "hold NaN" in failed(done)["reads only what it may"]


def test_arguments_that_may_be_written_to_are_the_callers_no_longer() -> None:
    """Neither run changes what the caller passed."""
    given = pages_arguments()
    before = given["pages"].clone()
    run(write, ops.write_pages_, given)
    assert torch.equal(given["pages"], before)


def outside() -> Arguments:
    given = pages_arguments()
    return given | {"positions": given["positions"] + 10**6}


def refuses(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    if int(positions.max()) >= table.shape[1] * pages.shape[1]:
        raise IndexError("outside")


def writes_then_refuses(pages: Tensor, *rest: Tensor) -> None:
    pages[0] = 0
    raise IndexError("outside")


def raises_another(*arguments: Tensor) -> None:
    raise RuntimeError("outside")


@pytest.mark.parametrize(
    ("kernel", "metrics"),
    [
        (refuses, set()),
        (lambda *arguments: None, {"raises IndexError"}),
        (raises_another, {"raises IndexError"}),
        (writes_then_refuses, {"inputs unchanged"}),
    ],
)
def test_what_is_forbidden_has_to_raise(kernel: Callable[..., Any], metrics: set[str]) -> None:
    assert set(failed(run(kernel, ops.write_pages_, outside(), raises="IndexError"))) == metrics


def test_a_subclass_is_the_exception_too() -> None:
    def key(*arguments: Tensor) -> None:
        raise KeyError("outside")

    assert failed(run(key, ops.write_pages_, outside(), raises="LookupError")) == {}


def test_strides_matter_only_in_strided_cases() -> None:
    def packed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return norm(x.as_strided(x.shape, (x.shape[1], 1)), weight, eps)

    assert failed(run(packed)) == {}
    strided = run(packed, strided=True)
    assert strided.outputs is not None and not torch.equal(strided.outputs[0], norm(**norm_arguments()))
