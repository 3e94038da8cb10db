"""Whether a call fits a kernel: what most kernels' `supports` ask, each answer with its reason.

def _rms_norm(signature: Signature) -> Support:
    return floats(signature, "x") and dtypes(signature, weight=torch.float32) and shapes(signature, x="... D", weight="D")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import CodeType
from typing import Any

import torch

from deepport import formats
from deepport.kernel import YES, Signature, Support, TensorSpec, no

FLOATS = (torch.float32, torch.bfloat16)
"""What kernels of activations take, where they say nothing else."""


def floats(signature: Signature, *names: str, of: Sequence[torch.dtype] = FLOATS) -> Support:
    """YES if these arguments, where there are any, have one of these types, and all the same."""
    given = {name: signature[name].dtype for name in names if isinstance(signature[name], TensorSpec)}
    for name, dtype in given.items():
        if dtype not in of:
            return no("dtype", f"{name} is {_shown(dtype)}; the kernel takes {_listed(of)}")
    if len(set(given.values())) > 1:
        return no(
            "dtype", f"{', '.join(f'{n} is {_shown(d)}' for n, d in given.items())}; the kernel takes one of them"
        )
    return YES


def dtypes(signature: Signature, **wanted: torch.dtype) -> Support:
    """YES if each of these arguments is absent or has its dtype."""
    for name, dtype in wanted.items():
        found = signature[name]
        if isinstance(found, TensorSpec) and found.dtype != dtype:
            return no("dtype", f"{name} is {_shown(found.dtype)}; the kernel takes {_shown(dtype)}")
    return YES


def shapes(signature: Signature, **wanted: str) -> Support:
    """YES if these arguments, where there are any, have shapes that belong together: `shapes(signature, x="... D", weight="D")`.

    A shape is sizes with spaces between. A name is the same size wherever it stands, that of the call's argument where one has
    this name; `n*D` is computed from what was named before it; `...` is any number of sizes, the same ones wherever it stands.
    """
    sizes: dict[str, Any] = {**signature.arguments}
    for argument, text in wanted.items():
        found = sizes[argument]
        if found is not None and (wrong := _misfit(found.shape, text, sizes)):
            return no("shape", f"{argument} is {list(found.shape)}, {wrong}")
    return YES


def _misfit(found: tuple[Any, ...], text: str, sizes: dict[str, Any]) -> str:
    """What keeps a shape from being the wanted one, "" if nothing does; its names join the sizes."""
    wanted, rest = _parsed(text)
    if rest >= 0 and len(found) >= len(wanted) - 1:
        end = len(found) - len(wanted) + rest + 1
        found = (*found[:rest], found[rest:end], *found[end:])
    if len(found) != len(wanted):
        return f"not [{text.replace(' ', ', ')}]"
    for size, (name, formula) in zip(found, wanted, strict=True):
        expected = eval(formula, sizes) if formula else sizes.setdefault(name, size)
        if size != expected:
            known = "" if name.isdecimal() else f", where {name} is {list(expected) if name == '...' else expected}"
            return f"not [{text.replace(' ', ', ')}]{known}"
    return ""


@cache
def _parsed(text: str) -> tuple[list[tuple[str, CodeType | None]], int]:
    """Each size's text, and what computes it where that is more than a name; and where `...` stands, -1 for nowhere."""
    names = text.split()
    formulas = [None if n == "..." or n.isidentifier() else compile(n, n, "eval") for n in names]
    return list(zip(names, formulas, strict=True)), names.index("...") if "..." in names else -1


def packing(format: str) -> int:
    """Numbers in an element of the data."""
    return 1 if format == formats.PLAIN else formats.parse(format).packing


def stored(data: TensorSpec, scale: TensorSpec | None, format: str, of: Sequence[torch.dtype] = FLOATS) -> Support:
    """YES if these can be a tensor of the format; plain numbers are of one of these types."""
    if format == formats.PLAIN:
        plain = data.dtype in of and scale is None
        return YES if plain else no("dtype", f"plain numbers are {_listed(of)}, without a scale")
    try:
        found = formats.parse(format)
    except ValueError as error:
        return no("format", str(error))
    if data.dtype != found.dtype or scale is None or len(data.shape) < 2:
        return no("format", f"data and scale are not {format}")
    if scale.dtype not in (found.scale_dtype(True), found.scale_dtype(False)):
        return no("dtype", f"a scale of {format} is not {_shown(scale.dtype)}")
    shape = (*data.shape[:-2], *found.scale_shape(data.shape[-2], data.shape[-1] * found.packing))
    if scale.shape != shape:
        return no("shape", f"a scale {scale.shape} is not that of {format} data {data.shape}")
    return YES


def paired(signature: Signature, results: int, arguments: int) -> Support:
    """YES if a backward operator's lists are as long as its forward has results and differentiable arguments."""
    for name, wanted in (("grads", results), ("output_mask", arguments)):
        if len(signature[name]) != wanted:
            return no("attribute", f"{name} has {len(signature[name])} entries; the kernel takes {wanted}")
    return YES


def gradients(signature: Signature, *names: str) -> Signature:
    """A backward operator's signature with the gradients of results as arguments of their own, of these names."""
    return replace(signature, arguments={**signature.arguments, **dict(zip(names, signature["grads"], strict=True))})


def in_place(signature: Signature, *names: str) -> Support:
    """YES if these arguments, which the kernel writes to, lie in memory without gaps."""
    for name in names:
        if not signature[name].contiguous:
            return no("layout", f"{name} is not contiguous, and is written in place")
    return YES


def _shown(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _listed(dtypes: Sequence[torch.dtype]) -> str:
    *most, last = map(_shown, dtypes)
    return f"{', '.join(most)} and {last}" if most else last
