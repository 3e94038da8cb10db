"""Imported by the simulated libascendcl when torch_npu first opens a device: from here on Python computes for it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes as C
import json
import os
from pathlib import Path

import torch

import cann.ops  # noqa: F401  (declares the operators)
from cann import wire
from cann.dispatch import Dispatcher
from cann.faults import Plan
from cann.hccl import Collectives
from cann.scheduler import Eager, Lazy

_WORDS = C.POINTER(C.c_uint64)
_PREPARE = C.CFUNCTYPE(C.c_long, C.c_int, _WORDS, _WORDS, _WORDS)
_EXECUTE = C.CFUNCTYPE(C.c_long, C.c_uint64, C.c_uint64)
_CARRY = C.CFUNCTYPE(C.c_int, C.c_int, _WORDS)
_HOOK = C.CFUNCTYPE(C.c_int64, C.c_int, C.c_uint64, C.c_uint64, C.c_uint64, C.c_uint64)

scheduler = Lazy() if os.environ.get("CANN_SIMULATOR_LAZY") == "1" else Eager()
dispatcher = Dispatcher(Plan.parse(os.environ.get("CANN_SIMULATOR_FAULTS", "")), scheduler)
_callbacks = _PREPARE(dispatcher.prepare), _EXECUTE(dispatcher.execute), _HOOK(dispatcher.event)
_carry = _CARRY(Collectives(scheduler).carry)
"""Kept: native code calls them as long as the process lives."""

wire.opapi.deepport_cann_register_operators(*_callbacks[:2])
wire.acl.deepport_cann_register(_callbacks[2])
C.CDLL("libhccl.so").deepport_cann_register_collectives(_carry)


@atexit.register
def _leave() -> None:
    """Finish before the interpreter ends: torch_npu's own end waits for its task queue while it holds Python's lock."""
    with contextlib.suppress(RuntimeError):  # a device that failed has been reported
        torch.get_device_module("npu").synchronize()
    wire.acl.deepport_cann_register(None)
    if path := os.environ.get("CANN_SIMULATOR_REPORT"):
        line = {"process": os.getpid(), "operators": dispatcher.calls, "copies": dispatcher.copies}
        with Path(path).open("a") as file:
            file.write(json.dumps(line) + "\n")
