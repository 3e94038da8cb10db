"""What is right, and how well plain arithmetic can tell: the float64 oracle and the reference's own error.

Both compute the same call, on the same inputs, already rounded to the case's dtypes. The oracle is the operator's reference in
float64; the yardstick is the reference in the case's dtypes, which accumulates in float32. Neither runs in the process of the
kernel under test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from deepport.conformance.gates import bits
from deepport.op import Operator

Arguments = Mapping[str, Any]

_DRAWS = 8


@dataclass(frozen=True)
class Truth:
    """`oracle` and `yardstick`: outputs in order, then what was written to. Of exact operators both are the same."""

    oracle: list[Tensor]
    yardstick: list[Tensor]

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.oracle, *self.yardstick))


def truth(operator: Operator[..., Any], arguments: Arguments) -> Truth:
    """Oracle and yardstick of a call with these arguments, which are left as they are."""
    yardstick = outputs(operator, operator.reference, arguments)
    if operator.tolerance.exact:
        return Truth(yardstick, yardstick)
    return Truth(outputs(operator, operator.reference, widened(arguments)), yardstick)


def sensitivity(operator: Operator[..., Any], arguments: Arguments, index: int, oracle: Tensor) -> float:
    """How far an output moves (root mean square) when every float input moves by a rounding of float32.

    Arithmetic in float32 is no surer than that. It stands in for the yardstick's error where there are too few numbers to
    measure that by.
    """
    wide, generator = widened(arguments), torch.Generator().manual_seed(0)
    moved = torch.stack([outputs(operator, operator.reference, _moved(wide, generator))[index] for _ in range(_DRAWS)])
    found = (moved - oracle)[(moved.isfinite() & oracle.isfinite())]
    return float(found.square().mean().sqrt()) if found.numel() else 0.0


def _moved(wide: Arguments, generator: torch.Generator) -> dict[str, Any]:
    def move(t: Tensor) -> Tensor:
        rounding = torch.finfo(torch.float32).eps / 2
        return t * (1 + rounding * torch.randn(t.shape, generator=generator, dtype=t.dtype))

    return {n: tree_map_only(Tensor, lambda t: move(t) if t.dtype == torch.float64 else t, a) for n, a in wide.items()}


def outputs(operator: Operator[..., Any], run: Any, arguments: Arguments) -> list[Tensor]:
    """What a function of the operator's schema gives: its results in order, then the arguments that it wrote to."""
    mine = dict(arguments) | {n: arguments[n].clone() for n in operator.mutates}
    with torch.no_grad():
        result = run(*(mine.get(n, operator.defaults.get(n)) for n in operator.parameters))
    return [*listed(result), *(mine[n] for n in operator.mutates)]


def listed(result: Any) -> list[Tensor]:
    """An operator's results as a list."""
    if result is None:
        return []
    return list(result) if isinstance(result, (tuple, list)) else [result]


def widened(arguments: Arguments) -> dict[str, Any]:
    """The same values in float64; quantised data and its scales stay, for the reference decodes them exactly."""
    wide = {torch.float32, torch.bfloat16, torch.float16}
    return {n: tree_map_only(Tensor, lambda t: t.double() if t.dtype in wide else t, a) for n, a in arguments.items()}


def tensors(value: Any) -> list[Tensor]:
    """The tensors in arguments or results, lists and None included."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


_BLOCK = 32
"""Elements of one byte that may share a scale, and so change together."""


def alike(mine: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """The same inputs, but for the last bits of a logarithm or a cosine, and for what rounding then made of them."""
    return len(mine) == len(given) and all(_close(a, b) for a, b in zip(mine, given, strict=True))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.element_size() == 1:
        return int((bits(a) != bits(b)).sum()) <= max(a.numel() // 100, _BLOCK)
    if not a.dtype.is_floating_point or not a.numel():
        return torch.equal(a, b)
    eps = 4 * torch.finfo(a.dtype).eps
    largest = float(a.double().nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(b.double(), a.double(), rtol=eps, atol=eps * largest, equal_nan=True)


def content_hash(values: Iterable[Tensor]) -> str:
    """sha256 over dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for t in values:
        found.update(f"{t.dtype}{tuple(t.shape)}".encode())
        found.update(bits(t.cpu()).numpy().data)
    return f"sha256:{found.hexdigest()}"
