"""One implementation, run on one case, and gate G1: what it does beside computing numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.backend import Runtime
from deepport.conformance import gates
from deepport.conformance.contract import Contract, contract_of
from deepport.conformance.guard import LARGE, Allocations, Guard, padded_strides, poison
from deepport.conformance.judge import output_name
from deepport.conformance.oracle import Arguments, listed, tensors
from deepport.conformance.result import Gate
from deepport.op import Operator

Run = Callable[..., Any]
Collect = Callable[[list[Tensor]], list[Tensor]]


@dataclass
class Execution:
    """What one call did. `outputs` are on the CPU: results in order, then what was written to.

    Without outputs the call could not be judged: `gates` say why.
    """

    outputs: list[Tensor] | None = None
    gates: list[Gate] = field(default_factory=list)
    seconds: float = 0.0
    device_seconds: float = 0.0


@dataclass(frozen=True)
class Implementation:
    """What is run: `run` has the operator's signature; `reference` says that it is the operator's own."""

    operator: Operator[..., Any]
    name: str
    run: Run
    reference: bool
    device: torch.device
    runtime: Runtime | None


def execute(subject: Implementation, arguments: Arguments, *, strided: bool = False, raises: str = "") -> Execution:
    """Run it twice: between guards on poisoned memory, and as production would. The gates compare the two."""
    if raises:
        return _refusal(subject, arguments, raises)
    contract = contract_of(subject.operator.name)
    done = Execution()
    guarded = _guarded(subject, contract, arguments, strided, done)
    if guarded is None:
        return done
    done.outputs = [t.cpu() for t in guarded]
    again = _plain(subject, arguments, strided, done)
    _compare(subject, contract, arguments, strided, again, done)
    if contract.rows:
        done.gates.append(_batch_invariance(subject, contract, arguments, again))
    return done


def _guarded(
    subject: Implementation, contract: Contract, arguments: Arguments, strided: bool, done: Execution
) -> list[Tensor] | None:
    operator, guard = subject.operator, Guard()
    clean = _moved(arguments, subject.device)
    unread = contract.unread(arguments)
    placed = {n: _placed(guard, n, a, strided) for n, a in clean.items()}
    for name, where in unread.items():
        poison(placed[name], where.to(subject.device))
    before = {
        n: [t.clone() for t in tensors(a) if t.nbytes <= LARGE] for n, a in placed.items() if n not in operator.mutates
    }
    with _spied(subject) as graded_itself, Allocations(guard):
        results = _call(subject, placed)
    found = [*results, *(placed[n] for n in operator.mutates)]
    done.gates += [_shapes(subject, arguments, found), _unchanged(before, placed), _aliases(results, placed)]
    done.gates += [_yes("guards", guard.broken()), _yes("computes by itself", graded_itself)]
    return found if all(g.status == "pass" for g in done.gates[:1]) else None


def _call(subject: Implementation, arguments: Arguments) -> list[Tensor]:
    with torch.no_grad():
        results = listed(subject.run(*arguments.values()))
    if subject.runtime is not None:
        subject.runtime.synchronize()
    return results


def _moved(arguments: Arguments, device: torch.device) -> dict[str, Any]:
    return {n: tree_map_only(Tensor, lambda t: t.to(device), a) for n, a in arguments.items()}


def _placed(guard: Guard, name: str, argument: Any, strided: bool) -> Any:
    return tree_map_only(Tensor, lambda t: guard.place(name, t, padded_strides(t) if strided else None), argument)


def _plain(subject: Implementation, arguments: Arguments, strided: bool, done: Execution) -> list[Tensor]:
    """The call as production makes it, timed."""
    placed = _own(subject, arguments, strided)
    asynchronous = subject.runtime is not None and subject.runtime.asynchronous
    events = (subject.runtime.event(), subject.runtime.event()) if subject.runtime and asynchronous else None
    begin = time.perf_counter()
    if events:
        events[0].record()
    results = _call(subject, placed)
    if events:
        events[1].record()
    done.seconds = time.perf_counter() - begin
    done.device_seconds = events[1].seconds_since(events[0]) if events else done.seconds
    return [t.cpu() for t in (*results, *(placed[n] for n in subject.operator.mutates))]


def _own(subject: Implementation, arguments: Arguments, strided: bool) -> dict[str, Any]:
    """Arguments that the call may write to: copies, in the layout that the case asks for."""
    moved = _moved(arguments, subject.device)
    if strided:
        return {n: _placed(Guard(), n, a, strided) for n, a in moved.items()}
    return moved | {n: moved[n].clone() for n in subject.operator.mutates if moved[n].nbytes <= LARGE}


def _compare(
    subject: Implementation,
    contract: Contract,
    arguments: Arguments,
    strided: bool,
    again: list[Tensor],
    done: Execution,
) -> None:
    """Poison must not matter, nor the day of the week."""
    if not contract.deterministic or done.outputs is None:
        return
    free = contract.free(arguments)
    differing = _differing(subject, done.outputs, again, free)
    if not differing:
        done.gates += [_yes("reads only what it may", []), _yes("same bits again", [])]
        return
    third = _plain(subject, arguments, strided, Execution())
    if unsteady := _differing(subject, again, third, free):
        done.gates.append(_yes("same bits again", unsteady))
    else:
        told = [f"{d}, where padding and memory not yet written hold NaN" for d in differing]
        done.gates.append(_yes("reads only what it may", told))


def _differing(subject: Implementation, left: list[Tensor], right: list[Tensor], free: dict[int, Tensor]) -> list[str]:
    found = []
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        gate = gates.exact(output_name(subject.operator, i), a, b, free.get(i))[0]
        if gate.status == "fail":
            found.append(f"{output_name(subject.operator, i)}: {gate.detail}")
    return found


def _batch_invariance(subject: Implementation, contract: Contract, arguments: Arguments, whole: list[Tensor]) -> Gate:
    """The first half of the tokens alone gives the bits that it gives among the others."""
    tokens = arguments[contract.rows[0]].shape[0]
    half = -(-tokens // 2)
    part = {n: a[:half] if n in contract.rows and isinstance(a, Tensor) else a for n, a in arguments.items()}
    found = _plain(subject, part, False, Execution())
    same_rows = [w[: len(f)] for f, w in zip(found, whole, strict=True)]
    return _yes("same bits in another batch", _differing(subject, found, same_rows, {}))


def _refusal(subject: Implementation, arguments: Arguments, raises: str) -> Execution:
    """A call that the contract forbids has to raise, by the next synchronisation, and leave its arguments as they were."""
    placed, done = _moved(arguments, subject.device), Execution()
    before = {n: [t.clone() for t in tensors(a)] for n, a in placed.items()}
    try:
        _call(subject, placed)
        found = [f"it returned, and should have raised {raises}"]
    except Exception as error:
        kinds = [k.__name__ for k in type(error).__mro__]
        found = [] if raises in kinds else [f"it raised {type(error).__name__}, not {raises}: {error}"]
    done.gates = [_yes(f"raises {raises}", found), _unchanged(before, placed)]
    return done


def _shapes(subject: Implementation, arguments: Arguments, found: list[Tensor]) -> Gate:
    """Number, dtype, shape and stride of the outputs are those that the operator's shape rule gives."""
    operator = subject.operator
    meta = {n: tree_map_only(Tensor, lambda t: t.to("meta"), a) for n, a in arguments.items()}
    expected = [*listed(operator.fake(*meta.values())), *(None for _ in operator.mutates)]
    if len(found) != len(expected):
        return _yes("shapes", [f"{len(found)} outputs, not {len(expected)}"])
    wrong = [
        f"{output_name(operator, i)} is {_layout(f)}, not {_layout(e)}"
        for i, (f, e) in enumerate(zip(found, expected, strict=True))
        if e is not None
        and (not isinstance(f, Tensor) or _layout(f) != _layout(e) or f.device.type != subject.device.type)
    ]
    return _yes("shapes", wrong)


def _layout(t: Tensor) -> str:
    stride = "" if t.is_contiguous() else f" with stride {tuple(t.stride())}"
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}{stride}"


def _unchanged(before: dict[str, list[Tensor]], after: Arguments) -> Gate:
    changed = [
        f"{name} was written to"
        for name, copies in before.items()
        for copy, t in zip(copies, [t for t in tensors(after[name]) if t.nbytes <= LARGE], strict=True)
        if gates.exact(name, t.cpu(), copy.cpu(), None)[0].status == "fail"
    ]
    return _yes("inputs unchanged", changed)


def _aliases(results: list[Tensor], arguments: Arguments) -> Gate:
    owners = {t.untyped_storage().data_ptr(): n for n, a in arguments.items() for t in tensors(a) if t.numel()}
    shared = [owners.get(t.untyped_storage().data_ptr()) for t in results if isinstance(t, Tensor) and t.numel()]
    return _yes("own memory", [f"a result is a view of {name}" for name in shared if name])


@contextmanager
def _spied(subject: Implementation) -> Iterator[list[str]]:
    """Whether a kernel hands the call to the operator's reference, and so would be compared with itself."""
    operator, seen = subject.operator, list[str]()
    original = operator.reference
    if subject.reference:
        yield seen
        return

    def tripped(*args: Any, **kwargs: Any) -> Any:
        seen[:] = [f"{subject.name} calls {operator.name}.reference"]
        return original(*args, **kwargs)

    operator.reference = tripped
    try:
        yield seen
    finally:
        operator.reference = original


def _yes(metric: str, found: list[str]) -> Gate:
    return Gate(gate="G1", metric=metric, status="fail" if found else "pass", detail="; ".join(found))
