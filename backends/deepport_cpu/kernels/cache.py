"""The paged cache's write (`csrc/cpu/cache.h`): bytes are copied, so that any type will do."""

import torch
from torch import Tensor

from deepport.fit import calls, in_place
from deepport.kernel import Kernel, Signature, Support
from deepport_cpu.native import call, dense


def write_pages_(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    (count, page, width), (sequences, columns) = pages.shape, table.shape
    call.write_pages(
        pages, dense(table), dense(values), dense(positions), dense(cu_seqlens),
        values.shape[0], sequences, count, page, columns, width * pages.element_size(),
    )  # fmt: skip


def write_pages(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Tensor:
    written = pages.clone(memory_format=torch.contiguous_format)
    write_pages_(written, table, values, positions, cu_seqlens)
    return written


def _write_in_place(signature: Signature) -> Support:
    return in_place(signature, "pages") and calls.write_pages(signature)


KERNELS = (
    Kernel("write_pages_", "native", write_pages_, _write_in_place, mutates=("pages",)),
    Kernel("write_pages", "native", write_pages, calls.write_pages),
)
