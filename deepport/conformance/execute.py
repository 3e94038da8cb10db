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
    """What is run.

    Attributes:
        run: has the operator's signature.
        reference: `run` is the operator's own reference.
        production: the call as production makes it, through the dispatcher; None where this implementation would not serve.
    """

    operator: Operator[..., Any]
    name: str
    run: Run
    reference: bool
    device: torch.device
    runtime: Runtime | None
    production: Run | None = None


@dataclass(frozen=True)
class Far:
    """A case's arguments with its rows far apart, past 2^31 bytes; `collect` brings outputs back to the case's own shapes."""

    arguments: Arguments
    collect: Callable[[list[Tensor]], list[Tensor]]


def execute(
    subject: Implementation,
    arguments: Arguments,
    *,
    strided: bool = False,
    raises: str = "",
    far: Far | None = None,
    earlier: Arguments | None = None,
) -> Execution:
    """Run it twice: between guards on poisoned memory, and as production would. The gates compare the two.

    `earlier`: other values for the same call, which is made with them first; what an implementation remembers of it is wrong.
    """
    if raises:
        return _refusal(subject, arguments, raises)
    if earlier is not None:
        _Calls(subject, earlier, strided, lambda outputs: outputs).plain(Execution())
    contract = contract_of(subject.operator.name)
    call = _Calls(
        subject, far.arguments if far else arguments, strided, far.collect if far else lambda outputs: outputs
    )
    done = Execution()
    done.outputs = call.guarded({} if far else contract.unread(arguments), done.gates)
    if done.outputs is None:
        return done
    again = call.plain(done)
    if contract.deterministic:
        done.gates += _compared(call, contract.free(arguments), done.outputs, again)
    if contract.rows:
        done.gates.append(_batch_invariance(subject, contract, arguments, strided, again))
    return done


@dataclass(frozen=True)
class _Calls:
    """The ways in which one call is made. `kept`: results of the guarded one, whose memory stays theirs."""

    subject: Implementation
    arguments: Arguments
    strided: bool
    collect: Callable[[list[Tensor]], list[Tensor]]
    kept: list[Tensor] = field(default_factory=list)

    def guarded(self, unread: dict[str, Tensor], found: list[Gate]) -> list[Tensor] | None:
        """Between guards, with poison where nothing may be read; None where the outputs cannot be judged."""
        operator, guard = self.subject.operator, Guard()
        placed = {n: _placed(guard, n, a, self.strided) for n, a in _moved(self.arguments, self.subject.device).items()}
        for name, where in unread.items():
            poison(placed[name], where.to(self.subject.device))
        before = _copies({n: a for n, a in placed.items() if n not in operator.mutates})
        with _spied(self.subject) as graded_itself, Allocations(guard):
            results = _call(self.subject, self.subject.run, placed)
        self.kept.extend(t for t in results if isinstance(t, Tensor))
        outputs = [*results, *(placed[n] for n in operator.mutates)]
        shapes = _shapes(self.subject, self.arguments, outputs)
        found += [shapes, _unchanged(before, placed), _aliases(results, placed)]
        found += [_yes("guards", guard.broken()), _yes("computes by itself", graded_itself)]
        return [t.cpu() for t in self.collect(outputs)] if shapes.status == "pass" else None

    def plain(self, timed: Execution) -> list[Tensor]:
        """As production makes it, timed."""
        subject, placed, runtime = self.subject, self._own(), self.subject.runtime
        events = (runtime.event(), runtime.event()) if runtime and runtime.asynchronous else None
        begin = time.perf_counter()
        if events:
            events[0].record()
        results = _call(subject, subject.production or subject.run, placed)
        if events:
            events[1].record()
        timed.seconds = time.perf_counter() - begin
        timed.device_seconds = events[1].seconds_since(events[0]) if events else timed.seconds
        timed.gates.append(_fresh(results, self.kept))
        return [t.cpu() for t in self.collect([*results, *(placed[n] for n in subject.operator.mutates)])]

    def _own(self) -> dict[str, Any]:
        """Arguments that the call may write to, in the layout that the case asks for."""
        moved = _moved(self.arguments, self.subject.device)
        if self.strided:
            return {n: _placed(Guard(), n, a, True) for n, a in moved.items()}
        return moved | {n: moved[n].clone() for n in self.subject.operator.mutates if moved[n].nbytes <= LARGE}


def _copies(arguments: Arguments) -> dict[str, list[Tensor]]:
    return {n: [t.clone() for t in tensors(a) if t.nbytes <= LARGE] for n, a in arguments.items()}


def _call(subject: Implementation, run: Run, arguments: Arguments) -> list[Tensor]:
    with torch.no_grad():
        results = listed(run(*(arguments[name] for name in subject.operator.parameters)))
    if subject.runtime is not None:
        subject.runtime.synchronize()
    return results


def _moved(arguments: Arguments, device: torch.device) -> dict[str, Any]:
    return {n: tree_map_only(Tensor, lambda t: t.to(device), a) for n, a in arguments.items()}


def _placed(guard: Guard, name: str, argument: Any, strided: bool) -> Any:
    return tree_map_only(Tensor, lambda t: guard.place(name, t, padded_strides(t) if strided else None), argument)


def _compared(call: _Calls, free: dict[int, Tensor], guarded: list[Tensor], again: list[Tensor]) -> list[Gate]:
    """Poison must not matter, nor the day of the week."""
    differing = _differing(call.subject, guarded, again, free)
    if not differing:
        return [_yes("reads only what it may", []), _yes("same bits again", [])]
    if unsteady := _differing(call.subject, again, call.plain(Execution()), free):
        return [_yes("same bits again", unsteady)]
    told = [f"{d}, where padding and memory not yet written hold NaN" for d in differing]
    return [_yes("reads only what it may", told), _yes("same bits again", [])]


def _differing(subject: Implementation, left: list[Tensor], right: list[Tensor], free: dict[int, Tensor]) -> list[str]:
    found = []
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        gate = gates.exact(output_name(subject.operator, i), a, b, free.get(i))[0]
        if gate.status == "fail":
            found.append(f"{output_name(subject.operator, i)}: {gate.detail}")
    return found


def _batch_invariance(
    subject: Implementation, contract: Contract, arguments: Arguments, strided: bool, whole: list[Tensor]
) -> Gate:
    """The first half of the tokens alone gives the bits that it gives among the others."""
    tokens = arguments[contract.rows[0]].shape[0]
    part = {
        n: a[: -(-tokens // 2)] if n in contract.rows and isinstance(a, Tensor) else a for n, a in arguments.items()
    }
    found = _Calls(subject, part, strided, lambda outputs: outputs).plain(Execution())
    same_rows = [w[: len(f)] for f, w in zip(found, whole, strict=True)]
    return _yes("same bits in another batch", _differing(subject, found, same_rows, {}))


def _refusal(subject: Implementation, arguments: Arguments, raises: str) -> Execution:
    """A call that the contract forbids has to raise, by the next synchronisation, and leave its arguments as they were."""
    placed, done = _moved(arguments, subject.device), Execution()
    before = _copies(placed)
    try:
        _call(subject, subject.run, placed)
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
    expected = [*listed(operator.fake(*(meta[n] for n in operator.parameters))), *(None for _ in operator.mutates)]
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


def _fresh(results: list[Tensor], earlier: list[Tensor]) -> Gate:
    """Each call's results have memory of their own: who still holds the last call's must not see them change."""
    taken = {t.untyped_storage().data_ptr() for t in earlier if t.numel()}
    reused = any(t.untyped_storage().data_ptr() in taken for t in results if isinstance(t, Tensor) and t.numel())
    return _yes("new memory", ["a result lies where an earlier call's result still is"] if reused else [])


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
