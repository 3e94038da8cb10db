"""Capturing what a function does on the CPU, to replay it (`deepport.graph`).

Kernels in C++ are noted by the module that calls them (`csrc/cpu/recording.h`), and replayed without Python; what torch
computes between them is called again. Memory is the captured calls' own: views and allocations need no replaying.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepport.graph import Graph, refusals, refuse
from deepport.op import operators
from deepport.record import Record, Row
from deepport.server import server
from deepport_cpu._native import Recording


def capture(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], record: Record | None
) -> tuple[Tensor, Graph | str]:
    """`function(*inputs)`, and its work to be replayed; or why it cannot be."""
    with ExitStack() as stack:
        journal = stack.enter_context(record.journal()) if record is not None else []
        refused = stack.enter_context(refusals())
        mode = stack.enter_context(_Mode(inputs, journal))
        stack.enter_context(_Reads(mode.read))
        with mode.noting():
            result = function(*inputs)
        mode.refuse_what_changes()
    if refused:
        return result, refused[0]
    graph = _Graph(mode.parts, mode.owners, journal)
    if record is not None:
        record.follow(graph.taken)
    return result, graph


class _Call:
    """One of torch's operators, to be called again: what it makes is copied to where it was first made."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self._function, self._args, self._kwargs = function, args, kwargs
        self._places = [] if function._schema.is_mutable else _tensors(result)
        self._seconds = 0.0

    def __len__(self) -> int:
        return 1

    def replay(self) -> None:
        made = self._function(*self._args, **self._kwargs)
        if self._places:
            for place, value in zip(self._places, (made,) if isinstance(made, Tensor) else _tensors(made), strict=True):
                place.copy_(value)

    def replay_timed(self) -> None:
        begin = time.perf_counter()
        self.replay()
        self._seconds += time.perf_counter() - begin

    def take_seconds(self) -> list[float]:
        taken, self._seconds = self._seconds, 0.0
        return [taken]


class _Graph:
    """Parts in order; `owners` names for each call in them the row of the journal that it belongs to, -1 for none."""

    def __init__(self, parts: Sequence[Recording | _Call], owners: Sequence[int], journal: Sequence[Row]) -> None:
        self._parts, self._owners, self._journal, self._times = [p for p in parts if len(p)], owners, journal, 0

    def replay(self) -> None:
        if not self._journal:
            for part in self._parts:
                part.replay()
            return
        for part in self._parts:
            part.replay_timed()
        self._times += 1

    def taken(self) -> Iterator[Row]:
        """What was replayed since this was last asked."""
        times, self._times = self._times, 0
        rows = [replace(r, calls=times, flops=times * r.flops, bytes=times * r.bytes) for r in self._journal]
        seconds = [s for part in self._parts for s in part.take_seconds()]
        for owner, spent in zip(self._owners, seconds, strict=True):
            if owner >= 0:
                rows[owner].seconds += spent
        return iter(rows)


class _Mode(TorchDispatchMode):
    """Sees every operator that is called: ours are served inside it, so that what they are composed of is seen as well."""

    def __init__(self, inputs: tuple[Tensor, ...], journal: list[Row]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = Recording()
        self.parts: list[Recording | _Call] = [self._recording]
        self.owners: list[int] = []
        self._journal = journal
        self.read: set[int] = set()
        self._made = set(map(_storage, inputs))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call imports torch.compile's front end, to tell it to look away: more than a second

    @contextmanager
    def noting(self) -> Iterator[None]:
        self._recording.begin()
        try:
            yield
        finally:
            self._recording.end()
            self._own(-1)

    def refuse_what_changes(self) -> None:
        """What the host has read must be the same each time: nothing that the work writes to."""
        if self.read & self._made:
            refuse("the host reads a tensor that changes from call to call")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.namespace == "deepport":
            return self._operator(function, args)
        return self._plain(function, args, kwargs or {})

    def _operator(self, function: Any, args: tuple[Any, ...]) -> Any:
        self._own(-1)
        operator, place = operators[function._schema.name.partition("::")[2]], len(self._journal)
        # What is called here is called outside of both modes.
        with self, _Reads(self.read):
            result = server().serve(operator, args)
        self._own(place if self._journal else -1)
        written = [a for name, a in zip(operator.parameters, args, strict=False) if name in operator.mutates]
        self._made.update(map(_storage, _tensors([result, written])))
        return result

    def _plain(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        given, made = _tensors([args, kwargs]), _tensors(result)
        if torch.Tag.data_dependent_output in function.tags:
            self.read.update(map(_storage, given))
        elif _depends(function, args):
            refuse(f"{function}: a shape depends on data")
        elif function._schema.is_mutable or (not _allocates(function) and not _aliases(made, given)):
            self._note(function, args, kwargs, result)
            self._made.update(map(_storage, made))
        return result

    def _note(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self._recording.end()
        self._recording = Recording()
        self.parts += [_Call(function, args, kwargs, result), self._recording]
        self._recording.begin()

    def _own(self, row: int) -> None:
        """Give the calls that have no owner yet to a row."""
        self.owners += [row] * (sum(map(len, self.parts)) - len(self.owners))


class _Reads(TorchFunctionMode):
    """Sees the ways in which Python reads a tensor without an operator, and notes whose memory it was."""

    _WAYS = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)

    def __init__(self, read: set[int]) -> None:
        super().__init__()
        self._read = read

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in self._WAYS:
            self._read.update(map(_storage, _tensors(args)))
        return function(*args, **(kwargs or {}))


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _depends(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether a result's shape depends on data. Picking by index does so only where the index is a mask."""
    if function is torch.ops.aten.index.Tensor:
        return any(i.dtype in (torch.bool, torch.uint8) for i in _tensors(args[1]))
    return torch.Tag.dynamic_output_shape in function.tags


def _allocates(function: Any) -> bool:
    """Whether it makes memory without contents."""
    return function._schema.name.partition("::")[2] in (
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
    )


def _aliases(made: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Whether nothing was made but other views of what was given."""
    return {_storage(t) for t in made} <= {_storage(t) for t in given}
