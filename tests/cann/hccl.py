"""Collectives between simulated processes, by gloo on one machine. Each happens in its stream's order, as an operator does."""

from __future__ import annotations

import ctypes as C
import tempfile
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore

from cann.scheduler import Scheduler

DTYPES = (
    torch.int8, torch.int16, torch.int32, torch.float16, torch.float32, torch.int64, torch.uint64, torch.uint8,
    torch.uint16, torch.uint32, torch.float64, torch.bfloat16,
)  # fmt: skip
"""HcclDataType."""
REDUCE = (dist.ReduceOp.SUM, dist.ReduceOp.PRODUCT, dist.ReduceOp.MAX, dist.ReduceOp.MIN)
"""HcclReduceOp."""
INTERNAL = 4
"""HCCL_E_INTERNAL."""
_ROOT = 36
TIMEOUT = timedelta(minutes=30)
"""torch's own, of a group of gloo."""


class Collective(IntEnum):
    """As in native/hccl.cpp."""

    ROOT, INIT, DESTROY, NAME, ALL_REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER = range(8)
    ALL_TO_ALL_V, ALL_TO_ALL, SEND, RECEIVE = range(8, 12)


@dataclass(frozen=True)
class Group:
    """The processes that share a root, of which this one is `rank`."""

    gloo: Any
    size: int
    rank: int
    root: str


class Collectives:
    """What libhccl hands over."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._groups: dict[int, Group] = {}
        self._run: dict[Collective, Callable[..., Any]] = {
            Collective.ALL_REDUCE: all_reduce,
            Collective.BROADCAST: broadcast,
            Collective.ALL_GATHER: all_gather,
            Collective.REDUCE_SCATTER: reduce_scatter,
            Collective.ALL_TO_ALL_V: all_to_all_v,
            Collective.ALL_TO_ALL: all_to_all,
            Collective.SEND: send,
            Collective.RECEIVE: receive,
        }

    def carry(self, what: int, words: Any) -> int:
        try:
            match collective := Collective(what):
                case Collective.ROOT:
                    C.memmove(words[0], str(uuid.uuid4()).encode(), _ROOT)
                case Collective.INIT:
                    self._init(words[0], C.string_at(words[1], _ROOT).decode(), words[2], words[3])
                case Collective.DESTROY:
                    self._groups.pop(words[0], None)
                case Collective.NAME:
                    C.memmove(words[1], f"hccl_{self._groups[words[0]].root}\0".encode(), _ROOT + 6)
                case _:
                    return self._submit(collective, self._groups[words[0]], words)
        except Exception:
            traceback.print_exc()
            return INTERNAL
        return 0

    def _submit(self, collective: Collective, group: Group, words: Any) -> int:
        arguments: list[Any] = [words[i] for i in range(2, 7)]
        if collective is Collective.ALL_TO_ALL_V:  # the caller's arrays of counts are gone when the stream gets there
            arguments[2:4] = (list((C.c_uint64 * group.size).from_address(a)) for a in arguments[2:4])
        return self._scheduler.submit(words[1], lambda: _carried(self._run[collective], group, arguments))

    def _init(self, size: int, root: str, rank: int, out: int) -> None:
        """The processes meet in a file that the root names."""
        file = Path(tempfile.gettempdir()) / f"cann-simulator-{root}"
        store = PrefixStore("hccl", FileStore(str(file), size))
        number = 0x1000 + len(self._groups)
        self._groups[number] = Group(dist.ProcessGroupGloo(store, rank, size, TIMEOUT), size, rank, root)
        C.c_uint64.from_address(out).value = number


def _carried(run: Callable[..., Any], group: Group, arguments: list[int]) -> int:
    try:
        run(group, *arguments)
    except Exception:
        traceback.print_exc()
        return INTERNAL
    return 0


def _tensor(address: int, count: int, dtype: int) -> Tensor:
    if not count:
        return torch.empty(0, dtype=DTYPES[dtype])
    size = count * DTYPES[dtype].itemsize
    return torch.frombuffer((C.c_uint8 * size).from_address(address), dtype=torch.uint8).view(DTYPES[dtype])


def _reduced(group: Group, x: Tensor, reduce: int) -> Tensor:
    options: Any = dist.AllreduceOptions()
    options.reduceOp = REDUCE[reduce]
    group.gloo.allreduce([x], options).wait()
    return x


def all_reduce(group: Group, source: int, target: int, count: int, dtype: int, reduce: int) -> None:
    _tensor(target, count, dtype).copy_(_reduced(group, _tensor(source, count, dtype).clone(), reduce))


def broadcast(group: Group, buffer: int, count: int, dtype: int, root: int, _: int) -> None:
    options = dist.BroadcastOptions()
    options.rootRank, options.rootTensor = root, 0
    group.gloo.broadcast([_tensor(buffer, count, dtype)], options).wait()


def all_gather(group: Group, source: int, target: int, count: int, dtype: int, _: int) -> None:
    parts = list(_tensor(target, count * group.size, dtype).chunk(group.size))
    group.gloo.allgather([parts], [_tensor(source, count, dtype)]).wait()


def reduce_scatter(group: Group, source: int, target: int, count: int, dtype: int, reduce: int) -> None:
    whole = _reduced(group, _tensor(source, count * group.size, dtype).clone(), reduce)
    _tensor(target, count, dtype).copy_(whole.chunk(group.size)[group.rank])


def all_to_all_v(group: Group, source: int, target: int, sends: list[int], receives: list[int], dtype: int) -> None:
    """Parts lie one behind the other, as torch_npu has them: HCCL's displacements are not read."""
    whole, parts = _tensor(target, sum(receives), dtype), _tensor(source, sum(sends), dtype)
    group.gloo.alltoall_base(whole, parts, receives, sends).wait()


def all_to_all(group: Group, source: int, target: int, count: int, dtype: int, _: int) -> None:
    each = [count] * group.size
    group.gloo.alltoall_base(_tensor(target, sum(each), dtype), _tensor(source, sum(each), dtype), each, each).wait()


def send(group: Group, buffer: int, count: int, dtype: int, peer: int, _: int) -> None:
    group.gloo.send([_tensor(buffer, count, dtype)], peer, 0).wait()


def receive(group: Group, buffer: int, count: int, dtype: int, peer: int, _: int) -> None:
    group.gloo.recv([_tensor(buffer, count, dtype)], peer, 0).wait()
