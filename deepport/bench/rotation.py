"""Arguments that no cache has: calls take turns with copies of what they stream, and with other ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from deepport.spec import nbytes

Arguments = dict[str, Any]

_MOST = 4096
"""Variants of a call."""


@dataclass(frozen=True)
class Rotation:
    """Variants of a call, to be used in turn. `evict`: together they fit a cache, which must forget them between two rounds."""

    variants: list[Arguments]
    evict: bool


def streamed_bytes(arguments: Mapping[str, Any], names: tuple[str, ...]) -> float:
    return nbytes(*(v for n in names if isinstance(v := arguments[n], Tensor)))


def rotate(
    arguments: Arguments,
    streamed: tuple[str, ...],
    touched: float,
    beyond: int,
    vary: Callable[[Arguments, int], Arguments] | None,
) -> Rotation:
    """Variants of a call that together touch `beyond` bytes of what they stream, or as many as there may be.

    Args:
        streamed: the arguments that a call reads from memory: weights, tables.
        touched: bytes of those that one call reads.
        vary: changes what is read of them (ids), by the variant's number.
    """
    whole = streamed_bytes(arguments, streamed)
    count = min(-(-beyond // max(int(touched), 1)), _MOST)
    needed = min(-(-beyond // max(int(whole), 1)), count)
    copies = [arguments, *(_copy(arguments, streamed) for _ in range(needed - 1))]
    if vary is None:
        return Rotation(copies, len(copies) * touched < beyond)
    variants = [copy | vary(copy, i) for i, copy in zip(range(count), cycle(copies), strict=False)]
    return Rotation(variants, count * touched < beyond)


def _copy(arguments: Arguments, names: tuple[str, ...]) -> Arguments:
    return {n: torch.clone(v) if n in names and isinstance(v, Tensor) else v for n, v in arguments.items()}
