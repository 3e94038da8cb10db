"""Attention over a window and compressed entries, and their choice (`csrc/cpu/attention.h`)."""

import torch
from torch import Tensor

from deepport.fit import calls, floats, gradients, paired, shapes
from deepport.kernel import Kernel, Signature, Support
from deepport_cpu.native import asked, call, dense, like, of_result


def sparse_attention(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if compressed_pages is None or compressed_table is None:
        compressed_pages = compressed_table = indices = None
    o, lse = like(q), torch.empty(q.shape[:2])
    call.sparse_attention(
        dense(q), dense(window_pages), dense(window_table), dense(compressed_pages), dense(compressed_table),
        dense(indices), dense(sink), dense(positions), dense(cu_seqlens), o, lse, q.dtype, *q.shape,
        cu_seqlens.shape[0] - 1, *_paging(window_pages, window_table), *_paging(compressed_pages, compressed_table),
        0 if indices is None else indices.shape[1], scale, window_size, ratio,
    )  # fmt: skip
    return o, lse


def sparse_attention_backward(
    grads: list[Tensor | None], output_mask: list[bool],
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> list[Tensor]:  # fmt: skip
    if compressed_pages is None or compressed_table is None:
        compressed_table = indices = None
    dq, dsink = like(q), None if sink is None else like(sink)
    dwindow = torch.zeros(window_pages.shape)
    dcompressed = None if compressed_pages is None else torch.zeros(compressed_pages.shape)
    seen = None if compressed_table is None else compressed_pages
    call.sparse_attention_backward(
        dense(of_result(grads, q)), dense(q), dense(window_pages), dense(window_table), dense(seen), dense(compressed_table),
        dense(indices), dense(sink), dense(positions), dense(cu_seqlens), dq, dwindow, dcompressed, dsink, q.dtype, *q.shape,
        cu_seqlens.shape[0] - 1, *_paging(window_pages, window_table), *_paging(seen, compressed_table),
        0 if indices is None else indices.shape[1], scale, window_size, ratio,
    )  # fmt: skip
    found = (dq, dwindow.to(q.dtype), None if dcompressed is None else dcompressed.to(q.dtype), dsink)
    return asked(found, output_mask)


def _paging(pages: Tensor | None, table: Tensor | None) -> tuple[int, int, int]:
    """How many pages there are, entries in each, and columns of the table."""
    return (0, 1, 0) if pages is None or table is None else (pages.shape[0], pages.shape[1], table.shape[1])


def _sparse_attention_backward(signature: Signature) -> Support:
    if not (found := paired(signature, 2, 4)):
        return found
    named = gradients(signature, "d_o", "d_lse")  # of lse there is none: it is not read
    return calls.sparse_attention(named) and floats(named, "q", "d_o") and shapes(named, q="T H D", d_o="T H D")


def index_topk(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Tensor:
    ids = torch.empty((q.shape[0], k), dtype=torch.int32)
    call.index_topk(
        dense(q), dense(weights), dense(pages), dense(table), dense(positions), dense(cu_seqlens), ids, q.dtype, *q.shape,
        cu_seqlens.shape[0] - 1, *_paging(pages, table), ratio, k,
    )  # fmt: skip
    return ids


KERNELS = (
    Kernel("sparse_attention", "native", sparse_attention, calls.sparse_attention),
    Kernel("sparse_attention_backward", "native", sparse_attention_backward, _sparse_attention_backward),
    Kernel("index_topk", "native", index_topk, calls.index_topk),
)
