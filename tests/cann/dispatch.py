"""From a call of torch_npu to a simulated operator, and back with the vendor's error code.

An operator is a function on CPU tensors that are views of the device's memory. It writes its outputs in place:

    @aclnn("aclnnRmsNorm", "T T d | T T")
    def rms_norm(x, gamma, epsilon, y, rstd): ...

`check`, with the same arguments, raises `Refused` for what the vendor documents that it does not take: torch_npu then sees
error 161002, as from CANN, before anything runs. Letters of signatures: wire.py.
"""

from __future__ import annotations

import ctypes as C
import itertools
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from cann import wire
from cann.faults import Plan
from cann.scheduler import Event, Scheduler

REFUSED, FAILED, UNKNOWN = 161002, 361001, 561103
"""aclnn's codes: a parameter is not taken (ACLNN_ERR_PARAM_INVALID), running failed, an operator is not there."""

Function = TypeVar("Function", bound=Callable[..., None])


class Refused(Exception):
    """The vendor documents that an operator does not take these arguments."""


@dataclass(frozen=True)
class Operator:
    name: str
    signature: str
    run: Callable[..., None]
    check: Callable[..., None] | None


operators: dict[str, Operator] = {}


def aclnn(name: str, signature: str, check: Callable[..., None] | None = None) -> Callable[[Function], Function]:
    """Declare what the operator `name` computes. ValueError for a second declaration, or an unknown letter."""
    wire.signature(signature)
    if name in operators:
        raise ValueError(f"{name} is declared twice")

    def declare(run: Function) -> Function:
        operators[name] = Operator(name, signature, run, check)
        return run

    return declare


class Dispatcher:
    """What native code calls: operators, and the events of streams and memory."""

    def __init__(self, plan: Plan, scheduler: Scheduler) -> None:
        self.calls: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self._plan, self._scheduler = plan, scheduler
        self._names = _names()
        self._prepared: dict[int, tuple[Operator, list[Any]]] = {}
        self._executors = itertools.count(1)

    def prepare(self, index: int, integers: Any, floats: Any, stack: Any) -> int:
        """aclnnXGetWorkspaceSize: read the call, ask the operator's check. No operator of ours wants a workspace."""
        name = self._names[index]
        try:
            return self._prepare(name, wire.Call(integers, floats, stack))
        except (wire.Drift, wire.NotOnDevice, Refused) as why:
            return _error(REFUSED, f"{name}: {why}")
        except Exception as error:
            traceback.print_exc()
            return _error(FAILED, f"{name}: {type(error).__name__}: {error}")

    def _prepare(self, name: str, call: wire.Call) -> int:
        if self._plan.gone():
            return _error(self._plan.gone(), f"{name}: the simulated device has disappeared")
        operator = operators.get(name)
        if operator is None:
            self.calls[f"{name} (missing)"] += 1
            return _error(UNKNOWN, f"{name} is not in the CANN simulator; the call began with: {call.shown(12)}")
        arguments, workspace, executor = wire.arguments(operator.signature, call)
        values = [wire.value(a) for a in arguments]
        if operator.check:
            operator.check(*values)
        if code := self._plan.refusal(name):
            return _error(code, f"{name}: the fault plan has it fail")
        number = next(self._executors)
        self._prepared[number] = operator, values
        C.c_uint64.from_address(workspace).value = 0
        C.c_uint64.from_address(executor).value = number
        return 0

    def execute(self, executor: int, stream: int) -> int:
        """aclnnX: run now or later, as the scheduler has it."""
        prepared = self._prepared.pop(executor, None)
        if prepared is None:
            what = "was not made by the CANN simulator, or was executed already"
            return _error(FAILED, f"the executor {executor:#x} {what}")
        operator, values = prepared
        self.calls[operator.name] += 1
        if code := self._plan.late(operator.name):
            text = f"{operator.name}: the fault plan has it fail while it runs"
            return self._scheduler.fail(stream, lambda: _error(code, text))
        return self._scheduler.submit(stream, lambda: _run(operator, values))

    def event(self, event: int, a: int, b: int, c: int, d: int) -> int:
        """What streams, events and memory do (native/simulator.h lists it)."""
        try:
            if event == Event.ALLOCATE:
                return self._plan.allocation()
            if event == Event.COPY:
                self.copies[KINDS[c >> 60 & 7]] += 1
                self.copies[BY_FALLBACK] += c >> 63
                c &= (1 << 60) - 1
            return self._plan.gone() or self._scheduler.event(Event(event), a, b, c, d)
        except Exception:
            traceback.print_exc()
            return FAILED


KINDS = ("host to host", "host to device", "device to host", "device to device", "default")
BY_FALLBACK = "by a fallback to the CPU"
"""What copies are counted as: by their direction, and once more where they serve a fallback."""


def _run(operator: Operator, values: list[Any]) -> int:
    """The operator's own code, out of reach of the modes that the caller's thread is in; 0 or an error code."""
    try:
        with torch.inference_mode(), torch._C.DisableTorchFunction():
            operator.run(*values)
        return 0
    except Exception as error:
        print(f"the simulated {operator.name} failed:", file=sys.stderr)
        traceback.print_exc()
        return _error(FAILED, f"{operator.name}: {type(error).__name__}: {error}")


def _error(code: int, text: str) -> int:
    wire.acl.deepport_cann_error(f"CANN simulator: {text}".encode())
    return code


def _names() -> list[str]:
    wire.opapi.deepport_cann_operator.restype = C.c_char_p
    return [wire.opapi.deepport_cann_operator(i).decode() for i in range(wire.opapi.deepport_cann_operators())]
