"""Which number format a quantised tensor is in, told from the types and shapes of its data and scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

_FLOAT8 = {torch.float8_e4m3fn: "fp8_e4m3", torch.float8_e4m3fnuz: "fp8_e4m3fnuz"}
Hint = tuple[int, int] | tuple[None, None]


@dataclass(frozen=True)
class Span:
    """One dimension of a matrix, `size` long under `count` scales; `stacked` where another matrix follows in the same tensor."""

    size: int
    count: int
    stacked: bool = False

    def is_cut_by(self, block: int) -> bool:
        return -(-self.size // block) == self.count


@dataclass(frozen=True)
class Sample:
    """A quantised matrix of a file: its unpacked rows and columns, under scales of rows and columns."""

    data: torch.dtype
    scale: torch.dtype
    rows: Span
    columns: Span


def element(samples: Iterable[Sample]) -> str:
    """What all `samples` are made of, as `deepport.formats` calls it; ValueError where nothing is, or they differ."""
    kinds = {(s.data, s.scale) for s in samples}
    if len(kinds) != 1:
        raise ValueError("its matrices and scales do not go together")
    data, scale = kinds.pop()
    if data in _FLOAT8 and scale in (torch.float8_e8m0fnu, torch.float32):
        return _FLOAT8[data]
    if data == torch.int8 and scale in (torch.float8_e8m0fnu, torch.float32):
        return "int8" if scale == torch.float32 else "mxfp4"
    raise ValueError(f"no format has {_word(data)} data with {_word(scale)} scales")


def infer_format(samples: Iterable[Sample], hint: Hint = (None, None)) -> str:
    """The one format of all `samples`; `hint` is the (rows, columns) of a block that the configuration states.

    ValueError where there is none, or where the shapes alone leave open which block is meant.
    """
    samples = set(samples)
    kind = element(samples)
    if kind == "mxfp4":
        return kind  # its blocks are fixed; the shape of its scale is checked with all others
    if kind == "int8":
        return _integer_format(samples)
    rows, columns = (
        _block({s.rows for s in samples}, hint[0], "rows"),
        _block({s.columns for s in samples}, hint[1], "columns"),
    )
    return f"{kind}:{rows}x{columns}"


def _integer_format(samples: set[Sample]) -> str:
    if all(s.rows.is_cut_by(1) and s.columns.count == 1 for s in samples):
        return "int8:row"
    if all(s.rows.count == 1 and not s.rows.stacked and s.columns.is_cut_by(1) for s in samples):
        return "int8:channel"
    raise ValueError("int8 has one float32 scale per row, or per column of a matrix that is not stacked with another")


def _block(spans: set[Span], hint: int | None, axis: str) -> int:
    """The length of the blocks that cut all `spans`.

    Counts alone are ambiguous: 288 rows under 3 scales may be blocks of 96, or of 128 with the last one partial.
    """
    if hint and all(span.is_cut_by(hint) for span in spans):
        found = {hint}
    else:
        found = {b for s in spans for b in _candidates(s) if all(span.is_cut_by(b) for span in spans)}
    if not found:
        raise ValueError(f"no block size gives its number of scales along {axis}")
    whole = all(span.count == 1 for span in spans)
    if len(found) > 1 and not whole:
        sizes = " or ".join(map(str, sorted(found)))
        raise ValueError(
            f"blocks of {sizes} {axis} fit; config.json must say which in quantization_config.weight_block_size"
        )
    stacked = {span.size for span in spans if span.stacked}
    # One block over a whole matrix is the same block shortened to it, and then stacked matrices keep their own scales.
    options = (max(found), *stacked) if whole else (max(found),)
    for block in options:
        if all(span.is_cut_by(block) for span in spans) and all(size % block == 0 for size in stacked):
            return block
    raise ValueError(f"blocks of {max(found)} {axis} straddle the stacked matrices of {min(stacked)}")


def _candidates(span: Span) -> set[int]:
    """Block lengths that are likely: a power of two, or an equal part."""
    part, rest = divmod(span.size, max(span.count, 1))
    power = 1 << max(part + (rest > 0) - 1, 0).bit_length()
    return {power} if rest or not part else {power, part}


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
