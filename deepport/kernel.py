"""Kernels: a backend's ways of computing operators, and the answers they give before they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorSpec:
    """What a kernel may know of a tensor before it runs: never its data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        if 0 in self.shape:
            return True
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class Signature:
    """One call without its data: `signature["x"].dtype`, `signature["eps"]`."""

    operator: str
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def __str__(self) -> str:
        return f"{self.operator}({', '.join(f'{name} {_shown(value)}' for name, value in self.arguments.items())})"


@dataclass(frozen=True)
class Support:
    """A kernel's answer to a signature: yes, or no with a code to count and a reason to read."""

    ok: bool
    code: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


YES = Support(True)


def no(code: str, reason: str) -> Support:
    """A refusal. `code` is one of: dtype, format, shape, layout, attribute, device, version."""
    return Support(False, code, reason)


@dataclass(frozen=True)
class Kernel:
    """One backend's way of computing an operator; its identity is (operator, backend, name).

    `supports` is a pure function of the signature. `mutates` repeats the operator's declared mutations, so that a kernel
    which writes to an argument has to say so to be accepted. `keeps` tells a plan what the kernel needs for itself and keeps for
    later calls, in bytes at most: by buffer, for kernels of a backend share those that they call the same.
    """

    operator: str
    name: str
    run: Callable[..., Any]
    supports: Callable[[Signature], Support] = lambda signature: YES
    mutates: tuple[str, ...] = ()
    keeps: Callable[[Signature], Mapping[str, int]] = lambda signature: {}


def signature_of(operator: str, arguments: Mapping[str, Any]) -> Signature:
    """The signature of a call with these arguments."""
    return Signature(operator, {name: _spec(value) for name, value in arguments.items()})


def _shown(value: Any) -> str:
    if isinstance(value, TensorSpec):
        return f"{str(value.dtype).removeprefix('torch.')} {'x'.join(map(str, value.shape)) or 'scalar'}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, tuple) else str(value)


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorSpec(value.dtype, tuple(value.shape), tuple(value.stride()))
    return tuple(map(_spec, value)) if isinstance(value, list) else value
