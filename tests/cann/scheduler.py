"""When work on a stream happens: at once, or as late as CANN may do it.

A device promises only that a stream's work happens in order, and before whoever synchronises with it goes on. The lazy
scheduler keeps exactly that promise and no other: nothing runs until somebody waits for it. A program that reads a result
too early, or reuses memory on another stream without waiting, then sees 0xCD or old bytes every time, not now and then.
"""

from __future__ import annotations

import ctypes as C
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

Work = Callable[[], int]
"""Does something and returns 0 or an error code."""

NOW = 1
"""The answer to a copy, a fill or a launch that native code shall do itself."""


class Event(IntEnum):
    """As in native/simulator.h."""

    ALLOCATE, COPY, FILL, RECORD, WAIT, FINISH, FINISH_EVENT, FINISH_ALL, PENDING, HAPPENED, LAUNCH = range(1, 12)


class Scheduler(Protocol):
    def submit(self, stream: int, work: Work) -> int:
        """An operator's work on a stream; 0, or the error code of work that is done already."""

    def fail(self, stream: int, work: Work) -> int:
        """Work that is going to fail, which only a later synchronisation may say."""

    def event(self, event: Event, a: int, b: int, c: int, d: int) -> int: ...


class Eager:
    """Everything happens at once."""

    def __init__(self) -> None:
        self._failing: Work = _nothing

    def submit(self, stream: int, work: Work) -> int:
        return work()

    def fail(self, stream: int, work: Work) -> int:
        self._failing = work
        return 0

    def event(self, event: Event, a: int, b: int, c: int, d: int) -> int:
        if event in (Event.FINISH, Event.FINISH_EVENT, Event.FINISH_ALL):
            failing, self._failing = self._failing, _nothing
            return failing()
        if event in (Event.COPY, Event.FILL, Event.LAUNCH, Event.HAPPENED):
            return NOW
        return 0


def _nothing() -> int:
    return 0


@dataclass
class _Recorded:
    """One record of an event. Whoever waits, waits for the last one before, though the event may be recorded again meanwhile."""

    stream: int
    happened: bool = False


@dataclass
class Lazy:
    """Nothing runs until something waits for it."""

    _streams: dict[int, deque[Work]] = field(default_factory=lambda: defaultdict(deque))
    _events: dict[int, _Recorded] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _error: int = 0

    def submit(self, stream: int, work: Work) -> int:
        with self._lock:
            self._streams[stream].append(work)
        return 0

    fail = submit

    def event(self, event: Event, a: int, b: int, c: int, d: int) -> int:
        with self._lock:
            return self._event(event, a, b, c, d)

    def _event(self, event: Event, a: int, b: int, c: int, d: int) -> int:
        match event:
            case Event.COPY if d == 0:  # without a stream: now
                return NOW
            case Event.COPY:
                self._streams[d].append(lambda: _done(C.memmove, a, b, c))
            case Event.FILL:
                self._streams[d].append(lambda: _done(C.memset, a, b, c))
            case Event.LAUNCH:
                self._streams[c].append(lambda: _done(C.CFUNCTYPE(None, C.c_void_p)(a), b))
            case Event.RECORD:
                self._record(a, b)
            case Event.WAIT if b in self._events:
                wanted = self._events[b]
                self._streams[a].append(lambda: self._until(wanted))
            case Event.FINISH:
                return self._finished(lambda: self._drain(a))
            case Event.FINISH_EVENT if a in self._events:
                return self._finished(lambda: self._until(self._events[a]))
            case Event.FINISH_ALL:
                return self._finished(self._drain_all)
            case Event.PENDING:
                return int(bool(self._streams[a]))
            case Event.HAPPENED:
                return int(a not in self._events or self._events[a].happened)
        return 0

    def _record(self, event: int, stream: int) -> None:
        recorded = self._events[event] = _Recorded(stream)

        def happens() -> int:
            recorded.happened = True
            return 0

        self._streams[stream].append(happens)

    def _until(self, recorded: _Recorded) -> int:
        self._drain(recorded.stream, lambda: recorded.happened)
        return 0

    def _drain(self, stream: int, enough: Callable[[], bool] = lambda: False) -> None:
        waiting = self._streams[stream]
        while waiting and not enough():
            self._error = waiting.popleft()() or self._error

    def _drain_all(self) -> None:
        for stream in list(self._streams):
            self._drain(stream)

    def _finished(self, work: Callable[[], object]) -> int:
        work()
        error, self._error = self._error, 0
        return error


def _done(function: Callable[..., object], *arguments: int) -> int:
    function(*arguments)
    return 0
