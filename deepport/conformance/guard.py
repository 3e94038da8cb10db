"""Memory in which a kernel that strays is seen: every tensor lies between margins, and what is not written yet is poison.

Poison is NaN in every float format, and for integers a number that is no sensible index. A kernel that reads past a tensor's end,
or what it did not write, computes nonsense; one that writes there breaks a margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MARGIN = 1024
"""Bytes before and after a tensor; a multiple of every alignment that kernels ask for."""

LARGE = 1 << 30
"""Tensors of more bytes are used where they lie: a guarded copy would double the memory."""

_FLOAT, _INTEGER = 0xFF, 0x7B

aten = torch.ops.aten
_EMPTY = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
}
_FILLED = {
    aten.zeros.default,
    aten.zeros_like.default,
    aten.new_zeros.default,
    aten.full.default,
    aten.full_like.default,
    aten.new_full.default,
    aten.ones.default,
    aten.ones_like.default,
    aten.new_ones.default,
}


def poison_byte(dtype: torch.dtype) -> int:
    return _FLOAT if dtype.is_floating_point else _INTEGER


def poison(tensor: Tensor, where: Tensor) -> None:
    """Poison the elements `where`, in place."""
    size = tensor.element_size()
    bytes = torch.full((size,), poison_byte(tensor.dtype), dtype=torch.uint8, device=tensor.device)
    value = bytes.view(tensor.dtype)[0]
    if size == 1:  # float8 has no masked_fill
        tensor.view(torch.uint8).masked_fill_(where, poison_byte(tensor.dtype))
    else:
        tensor.masked_fill_(where, value)


def padded_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides of a layout with gaps: rows lie further apart than they are long."""
    stride, strides = 1, []
    for dim, size in reversed(list(enumerate(tensor.shape))):
        if dim == tensor.dim() - 1:
            strides.append(2 if tensor.dim() == 1 else 1)
            stride = size + 16
        else:
            strides.append(stride)
            stride *= size
    return tuple(reversed(strides))


@dataclass(frozen=True)
class _Held:
    name: str
    buffer: Tensor
    end: int
    byte: int


class Guard:
    """Places tensors between margins, and looks at the margins afterwards."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def empty(self, name: str, like: Tensor, strides: tuple[int, ...] | None = None) -> Tensor:
        """Poisoned memory with the shape, dtype and device of `like`."""
        strides = tuple(like.stride()) if strides is None else strides
        reach = sum((n - 1) * s for n, s in zip(like.shape, strides, strict=True)) + 1 if like.numel() else 0
        size = -(-reach * like.element_size() // 64) * 64
        byte = poison_byte(like.dtype)
        buffer = torch.full((MARGIN + size + MARGIN,), byte, dtype=torch.uint8, device=like.device)
        end = MARGIN + reach * like.element_size()
        self._held.append(_Held(name, buffer, end, byte))
        return (
            buffer[MARGIN : MARGIN + size]
            .view(like.dtype)
            .as_strided(like.shape, strides, MARGIN // like.element_size())
        )

    def place(self, name: str, tensor: Tensor, strides: tuple[int, ...] | None = None) -> Tensor:
        """A guarded copy, in the tensor's own layout or the one given."""
        if tensor.numel() * tensor.element_size() > LARGE:
            return tensor
        return self.empty(name, tensor, strides).copy_(tensor)

    def broken(self) -> list[str]:
        """The tensors past whose ends, or before whose beginnings, something was written."""
        return [
            f"{h.name}: written {side} it"
            for h in self._held
            for side, margin in (("before", h.buffer[:MARGIN]), ("after", h.buffer[h.end :]))
            if not bool((margin == h.byte).all())
        ]


class Allocations(TorchDispatchMode):
    """While entered, tensors that a kernel allocates lie between margins too, and start as poison unless it fills them."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._guard = guard

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _EMPTY and func not in _FILLED:
            return result
        if not isinstance(result, Tensor) or result.numel() * result.element_size() > LARGE or result.is_meta:
            return result
        guarded = self._guard.empty("memory the kernel allocated", result)
        return guarded if func in _EMPTY else guarded.copy_(result)
