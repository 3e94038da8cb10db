"""Which calls Ascend's compiler has accepted: what a call would launch is looked up in what was compiled, `baseline.json`.

A launch is accepted if its function was, with tensors of these types and these constants. Numbers above 1 among the constants
may be smaller than compiled ones: they are sizes of blocks, and smaller ones need less of the chip. 0 and 1 are cases of their
own, as Triton has them. No chip has run any of it: accepted means up to HIVM (`ahead.ascend`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.kernel import YES, Kernel, Signature, Support, TensorSpec, no
from deepport.op import operators
from deepport_triton.ahead import baseline
from deepport_triton.launch import Launch, noted

PROGRAMS = 65535
"""That triton-ascend starts at most in one launch (3.2.0: runtime/jit.py)."""

WRONG: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "_gate_up_tile": (
        {"element": "mxfp4"},
        "_gate_up_tile of mxfp4: triton-ascend 3.2.0 drops what is loaded of gathered rows in steps of two columns, and "
        "goes on with memory that nobody wrote",
    ),
}
"""By function what is accepted and computes something else, by its constants: found by executing the IR (`ahead.execute`)."""

_TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64", torch.bool: "i1",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8", torch.uint8: "u8",
}  # fmt: skip
"""Triton's words."""


@dataclass(frozen=True)
class Asked:
    """A function as the compiler was asked for it: types of its tensors, constants, and why it refuses, "" where it does not."""

    types: tuple[str, ...]
    constants: Mapping[str, str]
    reason: str

    def is_of(self, launch: Launch) -> bool:
        """Whether it was asked for with exactly what a launch has."""
        same = all(str(v) == self.constants[n] for n, v in launch.constants.items())
        return same and self.types == _types(launch)

    def covers(self, launch: Launch) -> bool:
        """Whether a launch needs no more than it."""
        return self.types == _types(launch) and all(_within(v, self.constants[n]) for n, v in launch.constants.items())

    def resembles(self, launch: Launch) -> bool:
        """Whether it differs from a launch in numbers at most."""
        words = {n: str(v) for n, v in launch.constants.items() if not _counted(v)}
        return self.types == _types(launch) and all(self.constants[n] == v for n, v in words.items())


def answer(kernel: Kernel, target: str, signature: Signature) -> Support:
    """A kernel's own answer; where it is yes, the compiler's for a target (`ascend-a2`), to everything that the call launches."""
    return kernel.supports(signature) and _accepted(kernel, target, _Call(signature))


class _Call:
    """A call, equal to others that launch the same: strides change nothing, for kernels make their tensors contiguous."""

    def __init__(self, signature: Signature) -> None:
        self.signature, self._text = signature, str(signature)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and self._text == other._text


@lru_cache(maxsize=4096)
def _accepted(kernel: Kernel, target: str, call: _Call) -> Support:
    arguments = tree_map_only(TensorSpec, _meta, tuple(call.signature.arguments.values()))
    with noted() as launches, torch.no_grad():
        kernel.run(*arguments)
    return next((said for launch in launches if not (said := of_launch(launch, target))), YES)


def _meta(spec: TensorSpec) -> Tensor:
    return torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device="meta")


def of_launch(launch: Launch, target: str) -> Support:
    """What the compiler has said of one launch."""
    function = launch.kernel.fn.__name__
    if (programs := prod(launch.grid)) > PROGRAMS:
        return no("shape", f"{function} would be {programs} programs; triton-ascend starts at most {PROGRAMS}")
    constants, reason = WRONG.get(function, ({}, ""))
    if reason and constants.items() <= launch.constants.items():
        return no("format", reason)
    known = asked(target).get(function, ())
    refusals = [a for a in known if a.reason]
    if not any(a.is_of(launch) for a in refusals) and any(a.covers(launch) for a in known if not a.reason):
        return YES
    if refused := next((a for a in refusals if a.resembles(launch)), None):
        return no("device", f"{target}'s compiler refuses {function}: {refused.reason}")
    words = " ".join((*_types(launch), *(f"{n}={v}" for n, v in launch.constants.items())))
    return no("shape", f"{target}'s compiler has not been asked for {function} {words}")


@cache
def asked(target: str) -> Mapping[str, tuple[Asked, ...]]:
    """By function what the compiler for a target was asked for."""
    found: dict[str, list[Asked]] = {}
    for name, kept in baseline.read().targets.get(target, {}).items():
        function, *words = name.split()
        types = tuple(w.removeprefix("*").partition("/")[0] for w in words if w.startswith("*"))
        constants = dict(w.split("=", 1) for w in words if "=" in w)
        found.setdefault(function, []).append(Asked(types, constants, kept.get("reason", "")))
    return {function: tuple(all) for function, all in found.items()}


def executed(operator: str, target: str) -> bool:
    """Whether cases of an operator were executed on x86 by the IR of a target's compiler, and passed (`ahead.execute`)."""
    exceptions = baseline.read().executed.get(target, {}).get(operator)
    cases = {case.label for case in operators[operator].cases}
    return exceptions is not None and bool(cases - {c for some in exceptions.values() for c in some})


def _types(launch: Launch) -> tuple[str, ...]:
    return tuple(_TYPES.get(a.dtype, str(a.dtype)) for a in launch.arguments if isinstance(a, Tensor))


def _counted(constant: Any) -> bool:
    return isinstance(constant, int) and not isinstance(constant, bool)


def _within(constant: Any, compiled: str) -> bool:
    return str(constant) == compiled or (_counted(constant) and 1 < constant <= int(compiled))
