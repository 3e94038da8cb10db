"""Calls of torch_npu with data that the vendor's pages forbid; prints what the simulator said of each, as far as it is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch_npu
from torch import Tensor

KNOWN = (
    "a key is listed behind a -1",
    "places are no permutation of the rows",
    "the groups end at",
    "an expert's id is not below 4",
)


def attention() -> Any:
    q, kv = _zeros(1, 2, 4, 512), _zeros(1, 3, 1, 512)
    listed = torch.tensor([[0, -1, 2], [0, 1, 2]], dtype=torch.int32).npu()[None, :, None]
    return torch_npu.npu_sparse_flash_attention(
        q, kv, kv, listed, 1.0, query_rope=_zeros(1, 2, 4, 64), key_rope=_zeros(1, 3, 1, 64), sparse_mode=0,
        attention_mode=2, return_softmax_lse=True,
    )  # fmt: skip


def unpermute() -> Any:
    places = torch.tensor([0, 1, 1, 2], dtype=torch.int32).npu()
    return torch_npu.npu_moe_token_unpermute(_zeros(4, 8), places, _zeros(2, 2))


def grouped() -> Any:
    ends = torch.tensor([2, 3]).npu()
    return torch_npu.npu_grouped_matmul(
        [_zeros(4, 8)], [_zeros(2, 8, 8)], group_list=ends, split_item=3, group_type=0, group_list_type=0
    )


def routing() -> Any:
    ids = torch.tensor([[0, 4]], dtype=torch.int32).npu()
    return torch_npu.npu_moe_init_routing_v2(
        _zeros(1, 8), ids, active_num=-1, expert_capacity=-1, expert_num=4, drop_pad_mode=0, expert_tokens_num_type=1,
        expert_tokens_num_flag=True, quant_mode=-1, active_expert_range=[0, 4], row_idx_type=0,
    )  # fmt: skip


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16, device="npu")


CALLS: dict[str, Callable[[], Any]] = {
    "a key behind -1": attention,
    "a place twice": unpermute,
    "groups that end early": grouped,
    "an expert that is not there": routing,
}


def said(call: Callable[[], Any]) -> str:
    try:
        call()
    except RuntimeError as error:
        return next((text for text in KNOWN if text in str(error)), str(error))
    return "nothing"


if __name__ == "__main__":
    print(json.dumps({name: said(call) for name, call in CALLS.items()}))
