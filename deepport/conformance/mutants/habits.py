"""Faults that any kernel may have, whatever it computes: they apply to every operator, a third party's too.

Most are the reference with one bad habit. A habit is left out where an operator gives it no hold: one without float results
cannot be truncated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.conformance.contract import contract_of
from deepport.conformance.mutants.facts import Facts, facts
from deepport.conformance.mutants.mutant import Given, Mutant, Run, answering, asking
from deepport.conformance.oracle import listed, tensors, widened
from deepport.op import Operator

AnyOperator = Operator[..., Any]


def habits(operator: AnyOperator) -> Iterator[Mutant]:
    """The mutants of this file that an operator has."""
    found = facts(operator)
    for name, (fault, make, applies) in _HABITS.items():
        if applies(found):
            yield Mutant(name, operator.name, fault, make(operator), raises=name == "refuses")
    if not operator.tolerance.exact and not operator.mutates:
        yield Mutant(
            "computes_in_float64",
            operator.name,
            "none",
            _more_exactly(operator),
            equivalent="the exact result, rounded once, is within every bound",
        )


def _specified(operator: AnyOperator, results: list[Tensor], given: Given) -> Iterator[tuple[Tensor, Tensor]]:
    """Results and what was written to, with the numbers of the rows `[R, last dimension]` that the contract specifies."""
    free = contract_of(operator.name).free(given)
    for i, t in enumerate((*results, *(given[n] for n in operator.mutates))):
        left_open = free[i].expand(t.shape) if i in free else torch.zeros(t.shape, dtype=torch.bool)
        yield t, (~left_open).any(-1).flatten().nonzero().flatten()


def _row(t: Tensor, row: int) -> Tensor:
    """A row of `[R, last dimension]`, in place, as bytes where the format is one: torch cannot write those."""
    t = t.view(torch.uint8) if t.element_size() == 1 else t
    at = torch.unravel_index(torch.tensor(row), t.shape[:-1]) if t.dim() > 1 else ()
    return t[tuple(int(i) for i in at)]


def _without_its_last_row(operator: AnyOperator) -> Run:
    """Zeros in the last row that is not zeros already, as after a loop that ends one too early."""

    def drop(results: list[Tensor], given: Given) -> Any:
        for t, rows in _specified(operator, results, given):
            for row in reversed(rows.tolist()):
                if bool(_row(t, row).any()):
                    _row(t, row).zero_()
                    return results
        return results

    return answering(operator, drop)


def _partly_unwritten(operator: AnyOperator) -> Run:
    """The last row of every result is what its memory held before."""

    def leave(results: list[Tensor], given: Given) -> Any:
        found = []
        for t, rows in list(_specified(operator, results, given))[: len(results)]:
            stale = torch.empty_like(t)
            found.append(t.clone())
            if len(rows) and t.numel():
                _row(found[-1], int(rows[-1])).copy_(_row(stale, int(rows[-1])))
        return found

    return answering(operator, leave)


def _past_its_end(operator: AnyOperator) -> Run:
    def stray(results: list[Tensor], given: Given) -> Any:
        found = [torch.empty_like(t).copy_(t) for t in results]
        for t in (*found, *(given[n] for n in operator.mutates)):
            _write_after(t)
        return found

    return answering(operator, stray)


def _write_after(t: Tensor) -> None:
    """Zero the element behind the last, where that memory is not somebody else's: between guards it never is."""
    end = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) + 1
    if t.numel() and (end + 1) * t.element_size() <= t.untyped_storage().nbytes():
        t.as_strided((1,), (1,), end).zero_()


def _scratches_an_input(operator: AnyOperator) -> Run:
    def scratch(results: list[Tensor], given: Given) -> Any:
        read = [t for n, t in given.items() if isinstance(t, Tensor) and n not in operator.mutates]
        for t in read:
            if t.numel():
                _first(t)[0] ^= 1
        return results

    return answering(operator, scratch)


def _first(t: Tensor) -> Tensor:
    """The bytes of the first element, in place."""
    return t.as_strided((1,), (1,), t.storage_offset()).view(torch.uint8)


def _depends_on_the_call(operator: AnyOperator) -> Run:
    """Every other call differs in the last bit of its first element, as sums by atomics do."""
    calls = count()

    def differ(results: list[Tensor], given: Given) -> Any:
        if next(calls) % 2:
            for t in (*results, *(given[n] for n in operator.mutates)):
                if t.numel():
                    _first(t)[0] ^= 1
        return results

    return answering(operator, differ)


def _depends_on_the_batch(operator: AnyOperator) -> Run:
    """The last bits of its first element follow the number of rows, as where a reduction is split by it."""
    rows = contract_of(operator.name).rows[0]

    def differ(results: list[Tensor], given: Given) -> Any:
        for t in results:
            if t.numel():
                _first(t)[0] ^= len(given[rows]) & 3
        return results

    return answering(operator, differ)


def _remembering(operator: AnyOperator) -> Run:
    """Looks an answer up by the shapes of the arguments."""
    reference, known = operator.reference, dict[Any, list[Tensor]]()

    def run(*arguments: Any) -> Any:
        key = tuple((t.shape, t.dtype) for t in tensors(arguments))
        if key not in known:
            known.clear()
            known[key] = [t.clone() for t in listed(reference(*arguments))]
        return [t.clone() for t in known[key]]

    return run


def _reusing(operator: AnyOperator) -> Run:
    """Every call answers in the same memory."""
    known = dict[Any, list[Tensor]]()

    def reuse(results: list[Tensor], given: Given) -> Any:
        key = tuple((t.shape, t.dtype) for t in results)
        if key not in known:
            known.clear()
            known[key] = [torch.empty_like(t) for t in results]
        return [mine.copy_(t) for mine, t in zip(known[key], results, strict=True)]

    return answering(operator, reuse)


def _wider(operator: AnyOperator) -> Run:
    """Results as wide as the accumulator, ids as int64: what a kernel had at hand."""
    wider = {torch.bfloat16: torch.float32, torch.float32: torch.float64, torch.int32: torch.int64}

    def widen(results: list[Tensor], given: Given) -> Any:
        return [t.to(wider.get(t.dtype, torch.int32)) for t in results]

    return answering(operator, widen)


def _blind_to_strides(operator: AnyOperator) -> Run:
    def packed(t: Tensor) -> Tensor:
        """int32 stays: what lies between ids would be sorted and counted up to."""
        return t if t.dtype == torch.int32 else t.as_strided(t.shape, torch.empty(t.shape, device="meta").stride())

    return asking(operator, lambda given: {n: tree_map_only(Tensor, packed, a) for n, a in given.items()})


def _in_half_precision(operator: AnyOperator) -> Run:
    """bfloat16 through float16, which has more digits but ends at 65504."""

    def half(t: Tensor) -> Tensor:
        return t.half().to(t.dtype) if t.dtype == torch.bfloat16 else t

    return asking(
        operator,
        lambda given: {n: tree_map_only(Tensor, half, a) for n, a in given.items() if n not in operator.mutates},
    )


def _truncating(operator: AnyOperator) -> Run:
    """float32 results cut off to bfloat16, instead of rounded."""
    reference = operator.reference

    def run(*arguments: Any) -> Any:
        right = listed(reference(*arguments))
        given = operator.bind(arguments)
        exact = listed(reference(*(widened(given) | {n: given[n].clone() for n in operator.mutates}).values()))
        return [_cut(w) if r.dtype == torch.bfloat16 else r for r, w in zip(right, exact, strict=True)]

    return run


def _cut(x: Tensor) -> Tensor:
    return (x.float().view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()


def _refusing(operator: AnyOperator) -> Run:
    def run(*arguments: Any) -> Any:
        raise NotImplementedError(f"{operator.name} is not implemented on this device")

    return run


def _grading_itself(operator: AnyOperator) -> Run:
    return lambda *arguments: operator.reference(*arguments)


def _more_exactly(operator: AnyOperator) -> Run:
    reference = operator.reference

    def run(*arguments: Any) -> Any:
        right = listed(reference(*arguments))
        exact = listed(reference(*widened(operator.bind(arguments)).values()))
        return [w.to(r.dtype) for r, w in zip(right, exact, strict=True)]

    return run


_Applies = Callable[[Facts], bool]
_HABITS: dict[str, tuple[str, Callable[[AnyOperator], Run], _Applies]] = {
    "drops_the_last_row": ("the last row is zeros", _without_its_last_row, lambda f: True),
    "leaves_a_row_unwritten": ("the last row is stale memory", _partly_unwritten, lambda f: f.returns),
    "writes_past_the_end": ("one element behind each result is overwritten", _past_its_end, lambda f: True),
    "writes_to_its_inputs": ("inputs serve as scratch memory", _scratches_an_input, lambda f: True),
    "differs_from_call_to_call": (
        "the last bit changes every other call",
        _depends_on_the_call,
        lambda f: not f.backward,
    ),
    "depends_on_the_batch": (
        "the last bits depend on the number of rows",
        _depends_on_the_batch,
        lambda f: f.by_row,
    ),
    "remembers_an_answer": ("answers a call of the same shapes as before", _remembering, lambda f: f.returns),
    "reuses_its_memory": ("every call answers in the same memory", _reusing, lambda f: f.returns),
    "returns_another_dtype": ("results are as wide as the accumulator", _wider, lambda f: f.returns),
    "ignores_strides": ("reads tensors as if they were contiguous", _blind_to_strides, lambda f: True),
    "computes_in_float16": (
        "bfloat16 inputs pass through float16",
        _in_half_precision,
        lambda f: f.inexact and f.narrow_in,
    ),
    "truncates": ("bfloat16 results are cut off, not rounded", _truncating, lambda f: f.inexact and f.narrow),
    "refuses": ("raises instead of answering", _refusing, lambda f: True),
    "grades_itself": ("hands the call to the reference it is judged by", _grading_itself, lambda f: True),
}
