"""The rows of memory tables (`csrc/cpu/gather.h`). A table is never copied: one with gaps is left to the reference."""

import torch
from torch import Tensor

from deepport import formats
from deepport.fit import FLOATS, dtypes, packing, shapes, stored
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu.native import call, dense
from deepport_cpu.numbers import numbers


def engram_gather(
    rows: Tensor,
    ids: Tensor,
    scale: Tensor | None = None,
    format: str = formats.PLAIN,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    width = rows.shape[1] * packing(format)
    found = torch.empty((*ids.shape, width), dtype=dtype)
    of = numbers(format, rows, scale)
    call.engram_gather(rows, scale, of, dense(ids), found, dtype, ids.numel(), rows.shape[0], width)
    return found


def _gather(signature: Signature) -> Support:
    rows, scale, format = signature["rows"], signature["scale"], signature["format"]
    if signature["dtype"] not in FLOATS:
        return no("dtype", f"rows are wanted in {signature['dtype']}; the kernel makes float32 and bfloat16")
    if not rows.contiguous or not (scale is None or scale.contiguous):
        return no("layout", "the table is not contiguous")
    if answer := stored(rows, scale, format) and shapes(signature, rows="R D"):
        one_row = format == formats.PLAIN or formats.parse(format).rows == 1
        return (
            dtypes(signature, ids=torch.int64) if one_row else no("format", f"a block of {format} spans several rows")
        )
    return answer


KERNELS = (Kernel("engram_gather", "native", engram_gather, _gather),)
