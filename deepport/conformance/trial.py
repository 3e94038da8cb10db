"""One case on one device, in two halves for two processes: what its implementations do, and what the gates say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport import backend
from deepport.conformance import grids, variants
from deepport.conformance.environment import kernel_hash
from deepport.conformance.execute import Execution, Far, Implementation, execute
from deepport.conformance.guard import Guard, padded_strides
from deepport.conformance.judge import itself, judge, nulls
from deepport.conformance.oracle import Truth, alike, content_hash, tensors, truth
from deepport.conformance.result import REFERENCE, SPY, CaseKey, Gate, Yardstick
from deepport.kernel import YES, Kernel, TensorSpec
from deepport.op import Operator
from deepport.policy import Session
from deepport.probing import printable
from deepport.record import Record
from deepport.runtime import current
from deepport.spec import Case

_SECOND = 1 << 22
"""Elements of arguments up to which a second draw is cheap, by which stale outputs are noticed."""


@dataclass(frozen=True)
class Offer:
    """Who takes a case, in the order in which they are asked: the first serves. Who does not, and why. Facts for the record.

    `broken`: of the implementations, kernels that cannot be asked, and what they raised. Production stops at the first of them.
    """

    implementations: tuple[str, ...]
    refusals: Mapping[str, str]
    broken: Mapping[str, str]
    facts: Mapping[str, Any]


class Bench:
    """A started device, and the case that is on it."""

    def __init__(self, name: str, index: int) -> None:
        self.started = backend.start(name)
        self.device = current(self.started.device_type, index)

    def offer(self, operator: Operator[..., Any], case: Case, seed: int) -> Offer:
        """Ask every kernel."""
        arguments = drawn(operator, case, seed)
        if case.variant == "strided":
            arguments = laid_out(arguments)
        signature = operator.signature(tuple(arguments[n] for n in operator.parameters))
        takers, refusals, broken = list[str](), dict[str, str](), dict[str, str]()
        for kernel in self.started.kernels.get(operator.name, []):
            name = self._name(kernel)
            try:
                support = kernel.supports(signature)
            except Exception as error:
                support, broken[name] = YES, f"supports() raised {type(error).__name__}: {printable(str(error), 400)}"
            if support:
                takers.append(name)
            else:
                refusals[name] = f"{support.code}: {support.reason}"
        return Offer(tuple(takers) or (REFERENCE,), refusals, broken, _facts(operator, arguments))

    def _name(self, kernel: Kernel) -> str:
        return f"{self.started.name}/{kernel.name}"

    def kernel(self, operator: Operator[..., Any], implementation: str) -> Kernel | None:
        """The kernel of this name; None for the reference."""
        kernels = self.started.kernels.get(operator.name, [])
        return next((k for k in kernels if self._name(k) == implementation), None)

    def perform(
        self, operator: Operator[..., Any], case: Case, seed: int, implementation: str, serving: bool
    ) -> tuple[Execution, str]:
        """Run one implementation; beside what it did, the hash of its files."""
        arguments, kernel, record = drawn(operator, case, seed), self.kernel(operator, implementation), Record()
        subject = Implementation(
            operator,
            implementation,
            operator.reference if kernel is None else kernel.run,
            kernel is None,
            self.device,
            self.started.runtime,
            self._production(operator, record) if serving else None,
        )
        # A kernel that calls other operators asks whom it would ask in production.
        with Session(backend=self.started.name):
            done = self._execute(subject, case, arguments, seed)
        if serving and not case.raises:
            done.gates.append(_spied(operator, implementation, record))
        return done, "" if kernel is None else kernel_hash(kernel)

    def _production(self, operator: Operator[..., Any], record: Record) -> Any:
        def run(*args: Any) -> Any:
            with Session(backend=self.started.name, record=record):
                return operator(*args)

        return run

    def _execute(self, subject: Implementation, case: Case, arguments: dict[str, Any], seed: int) -> Execution:
        if case.variant == "far":
            return execute(subject, arguments, far=Far(*variants.far(subject.operator.name, arguments, self.device)))
        small = sum(t.numel() for t in tensors(arguments)) <= _SECOND
        earlier = drawn(subject.operator, case, seed + 1) if small and not case.raises else None
        return execute(subject, arguments, strided=case.variant == "strided", raises=case.raises, earlier=earlier)


def drawn(operator: Operator[..., Any], case: Case, seed: int = 0) -> dict[str, Any]:
    """A case's arguments, in the order of the operator's parameters."""
    arguments = case.arguments(seed)
    return {n: arguments.get(n, operator.defaults.get(n)) for n in operator.parameters}


def laid_out(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same values in memory with gaps (`padded_strides`)."""
    guard = Guard()
    return {n: tree_map_only(Tensor, lambda t: guard.place("", t, padded_strides(t)), a) for n, a in arguments.items()}


def _spied(operator: Operator[..., Any], implementation: str, record: Record) -> Gate:
    """Production, asked through the dispatcher, called this implementation and no other."""
    served = sorted({r.implementation for r in record.rows if r.operator == operator.name})
    right = served == [implementation]
    detail = "" if right else f"{', '.join(served) or 'nobody'} served, not {implementation}"
    return Gate(gate="G1", metric=SPY, status="pass" if right else "fail", detail=detail)


def _facts(operator: Operator[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    cost = operator.cost(*arguments.values())
    signature = operator.signature(tuple(arguments.values()))
    return {
        "dtype": dtype_of(arguments),
        "arguments": {n: _described(v) for n, v in signature.arguments.items()},
        "input_hash": content_hash(tensors(arguments)),
        "flops": cost.flops,
        "bytes": cost.bytes,
    }


def dtype_of(arguments: Mapping[str, Any]) -> str:
    """Of the first float tensor: the activations; else of the first tensor."""
    found = tensors(dict(arguments))
    main = next((t for t in found if t.dtype.is_floating_point), found[0] if found else None)
    return "" if main is None else str(main.dtype).removeprefix("torch.")


def _described(value: Any) -> Any:
    if isinstance(value, TensorSpec):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(value.shape), "stride": list(value.stride)}
    if isinstance(value, tuple):
        return [_described(v) for v in value]
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value


@dataclass(frozen=True)
class Judgement:
    gates: list[Gate]
    nulls: dict[str, Any]
    yardstick: Yardstick


class OtherInputs(Exception):
    """The judge drew other inputs: a logarithm or a cosine may end in another bit under other instructions."""


class Judge:
    """Computes what is right, and judges; keeps the last case's truth for its other implementations."""

    def __init__(self) -> None:
        self._last: tuple[Any, dict[str, Any], Truth] | None = None

    def judge(
        self,
        operator: Operator[..., Any],
        key: CaseKey,
        got: list[Tensor],
        *,
        reference: bool,
        input_hash: str,
        inputs: list[Tensor] | None = None,
    ) -> Judgement:
        """Gates on outputs.

        `reference`: they are the reference's own, and comparing them would prove nothing. `inputs`: the tensors that the outputs
        were computed from, where they are not what is drawn here; OtherInputs asks for them.
        """
        arguments, found = self._truth(operator, key, inputs)
        if content_hash(tensors(arguments)) != input_hash:
            raise OtherInputs(f"{operator.name}: {key.label}")
        judged = judge(operator, arguments, got, found)
        return Judgement(
            itself(judged) if reference else judged,
            nulls(operator, arguments, self._stale(operator, key, arguments), found),
            _yardstick(found),
        )

    def _truth(
        self, operator: Operator[..., Any], key: CaseKey, inputs: list[Tensor] | None
    ) -> tuple[dict[str, Any], Truth]:
        if inputs is not None or self._last is None or self._last[0] != (operator.name, key):
            arguments = drawn(operator, grids.find(operator, key), key.seed)
            if inputs is not None:
                if not alike(tensors(arguments), inputs):
                    raise RuntimeError(f"{operator.name}: its inputs are not those of the case {key.label}")
                given = iter(inputs)
                arguments = {n: tree_map_only(Tensor, lambda _: next(given), a) for n, a in arguments.items()}
            self._last = (operator.name, key), arguments, truth(operator, arguments)
        return self._last[1:]

    def _stale(self, operator: Operator[..., Any], key: CaseKey, arguments: dict[str, Any]) -> list[Tensor] | None:
        if sum(t.numel() for t in tensors(arguments)) > _SECOND:
            return None
        return truth(operator, drawn(operator, grids.find(operator, key), key.seed + 1)).yardstick


def _yardstick(found: Truth) -> Yardstick:
    pairs = [
        (y, o)
        for y, o in zip(found.yardstick, found.oracle, strict=True)
        if y.is_floating_point() and y.element_size() > 1
    ]
    errors = torch.cat([(y.double() - o.double()).flatten() for y, o in pairs] or [torch.zeros(0, dtype=torch.float64)])
    errors = errors[errors.isfinite()]
    rms, largest = (float(errors.square().mean().sqrt()), float(errors.abs().max())) if errors.numel() else (0.0, 0.0)
    return Yardstick(hash=content_hash(found.yardstick), rms=rms, max=largest)
