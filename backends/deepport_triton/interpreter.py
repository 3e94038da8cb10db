"""Triton's interpreter, made right: kernels on the CPU, in numpy, one program after another.

The interpreter keeps bfloat16 and 8-bit floats as the integers of their bits. It truncates where a chip rounds to nearest even,
and adds, multiplies and compares those integers as if they were numbers, without a word. Here

- a conversion between number formats rounds as torch does, to nearest even;
- `tl.dot` sums products in float64 and rounds once: a library's float32 products round an entry by its place in the block, and
  two equal keys would score differently, which on a chip they do not; one of float32 has to ask for `input_precision="ieee"`, for
  chips would take 10 bits;
- what it changes in the language for a launch is remembered, and not looked for again, which took milliseconds;
- no sum of integers is computed a second time for a check of overflow, whose answer it throws away;
- operands of one shape are not broadcast to it, and types of a shape that was seen before are not made from the beginning: the
  interpreter's time was that;
- any other arithmetic on bfloat16 or 8-bit floats raises TypeError: convert to float32 first, as the chips' compilers would.

What runs here is evidence of what a kernel means (E4, "interpreter"), never of what a chip computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as vendor
from numpy.typing import NDArray
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle

from deepport.errors import BackendUnavailable

VERSIONS = ("3.7.",)
"""Of Triton, whose interpreter was read: what is put right here is its own code."""

_STORED: dict[Any, torch.dtype] = {
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e4b8: torch.float8_e4m3fnuz,
    tl.float8e5: torch.float8_e5m2,
    tl.float8e5b16: torch.float8_e5m2fnuz,
}
"""Formats that numpy has not: they are kept as the integers of their bits."""

Numbers = NDArray[Any]


def is_stored(dtype: Any) -> bool:
    return dtype.scalar in _STORED


def decoded(data: Numbers, dtype: Any) -> Numbers:
    """Numbers from what the interpreter keeps: those of formats that numpy has not as float32."""
    if not is_stored(dtype):
        return data
    bits = torch.from_numpy(np.ascontiguousarray(data))
    return bits.view(_STORED[dtype.scalar]).float().numpy()


def encoded(numbers: Numbers, dtype: Any) -> Numbers:
    """What the interpreter keeps of numbers, rounded to nearest even once."""
    kept = vendor._get_np_dtype(dtype.scalar)
    if not is_stored(dtype):
        return numbers.astype(kept)
    floats = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float32))
    bits = torch.uint16 if kept.itemsize == 2 else torch.uint8
    return floats.to(_STORED[dtype.scalar]).view(bits).numpy()


def _converted(self: Any, source: Any, to: Any, rounding: Any = None) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):  # too large a number becomes infinity, as on a chip
        return TensorHandle(encoded(decoded(source.data, source.dtype), to), to.scalar)


def _dot(self: Any, a: Any, b: Any, c: Any, precision: Any, imprecise: Any) -> Any:
    if a.dtype.scalar == tl.float32 and precision != vendor._ir.INPUT_PRECISION.IEEE:
        raise TypeError('tl.dot of float32 rounds its factors to 10 bits on a chip; ask for input_precision="ieee"')
    kept = c.data.dtype
    wide = np.dtype(np.float64) if np.issubdtype(kept, np.floating) else kept
    with np.errstate(over="ignore", invalid="ignore"):  # a chip does not warn
        product = decoded(a.data, a.dtype).astype(wide) @ decoded(b.data, b.dtype).astype(wide)
        return TensorHandle((product + c.data).astype(kept), c.dtype.scalar)


def _refusing(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """An arithmetic method of the builder that takes no numbers kept as bits."""

    def arithmetic(self: Any, *arguments: Any) -> Any:
        for given in arguments:
            if (
                isinstance(given, TensorHandle)
                and not isinstance(given.dtype, tl.pointer_type)
                and is_stored(given.dtype)
            ):
                raise TypeError(f"{name} of {given.dtype.scalar} in the interpreter: convert it to float32 first")
        return run(self, *arguments)

    return arithmetic


@cache
def _languages(fn: Any) -> tuple[Any, ...]:
    """Of Triton's language modules those that a function sees."""
    return tuple({id(m): m for m in fn.__globals__.values() if m is tl or m is tl.core}.values())


def _called(self: Any, *arguments: Any, **named: Any) -> Any:
    """A kernel's call of another function; the language is patched only where the launch, or a call before, has not done so."""
    if any(tl.core.is_builtin(m.load) for m in _languages(self.fn)):
        vendor._patch_lang(self.fn)
    return self.rewrite()(*arguments, **named)


def _remembering(patch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The language's patch for a launch: what it changes, and to what, is the same every time."""
    known: dict[tuple[Any, ...], list[tuple[Any, str, Any]]] = {}

    def patched(fn: Any) -> Any:
        languages = _languages(fn)
        if not all(tl.core.is_builtin(m.load) for m in languages):
            return patch(fn)
        if languages not in known:
            scope = patch(fn)
            known[languages] = [(where, name, getattr(where, name)) for where, name, _ in scope._changes]
            return scope
        scope = vendor._LangPatchScope()
        for change in known[languages]:
            scope.set_attr(*change)
        return scope

    return patched


def _without_need(broadcast: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Operands of one shape are what they were: to see that, the language takes their types apart."""

    def broadcasted(a: Any, b: Any) -> Any:
        same = a.type.is_block() == b.type.is_block() and a.handle.data.shape == b.handle.data.shape
        return (a, b) if same else broadcast(a, b)

    return broadcasted


@cache
def _shape(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """A tensor's number of elements and shape, as the language keeps them."""
    return tl.constexpr(math.prod(sizes)), tl.tuple([tl.constexpr(size) for size in sizes])


def _tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _shape(tuple(type.shape.values) if type.is_block() else ())


def _remembering_blocks(make: Callable[..., None]) -> Callable[..., None]:
    known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def made(self: Any, element_ty: Any, shape: Any) -> None:
        key = (str(element_ty), *(s.value if isinstance(s, tl.constexpr) else s for s in shape))
        if key not in known:
            make(self, element_ty, shape)
            known[key] = dict(vars(self))
        vars(self).update(known[key])

    return made


_number_type = cache(vendor._get_np_dtype)


def _numpy_type(dtype: Any) -> Any:
    """What numpy keeps a type as; the interpreter makes a table of all types whenever it looks for one."""
    scalar = dtype.scalar
    return np.dtype(np.uint64) if isinstance(scalar, tl.pointer_type) else _number_type(scalar)


_CONVERSIONS = (
    "create_si_to_fp", "create_ui_to_fp", "create_fp_to_si", "create_fp_to_ui", "create_fp_ext", "create_fp_trunc",
    "create_fp_to_fp",
)  # fmt: skip
_ARITHMETIC = (
    "binary_op",
    "unary_op",
    "create_fma",
    "create_clampf",
    "create_rsqrt",
    "create_atomic_rmw",
    "create_erf",
)


def correct() -> None:
    """Put Triton's interpreter right in this process. BackendUnavailable for a Triton that has not been read."""
    if not (found := version("triton")).startswith(VERSIONS):
        known = ", ".join(f"{v}x" for v in VERSIONS)
        raise BackendUnavailable(f"triton {found}: its interpreter is not known here; install triton {known}")
    if InterpreterBuilder.create_dot is _dot:
        return
    for name in _CONVERSIONS:
        setattr(InterpreterBuilder, name, _converted)
    for name in _ARITHMETIC:
        setattr(InterpreterBuilder, name, _refusing(name.removeprefix("create_"), getattr(InterpreterBuilder, name)))
    InterpreterBuilder.create_dot = _dot
    InterpretedFunction.__call__ = _called
    vendor._patch_lang = _remembering(vendor._patch_lang)
    vendor._get_np_dtype = _numpy_type
    tl.tensor.__init__ = _tensor
    tl.block_type.__init__ = _remembering_blocks(tl.block_type.__init__)
    semantic = vendor.interpreter_semantic
    semantic.broadcast_impl_value = _without_need(semantic.broadcast_impl_value)
    builder = vendor.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
