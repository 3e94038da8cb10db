"""Host code that touches what it may not: `trap.py NAME...`, and for each what is left to say where it goes on."""

from __future__ import annotations

import ctypes
import sys

import torch

from deepport import backend

backend.start("sim")
x = torch.ones(4, device="sim")


def device_memory() -> str:
    return ctypes.string_at(x.data_ptr(), 4).hex()  # here


def kept_device_memory() -> str:
    host = x.cpu()
    return ctypes.string_at(host.data_ptr(), 4).hex()


def arriving() -> str:
    y = (x * 2).to("cpu", non_blocking=True)
    return str(y.sum())  # here


def kept_arriving() -> str:
    y = (x * 2).to("cpu", non_blocking=True)
    torch.sim.synchronize()
    return str(y.sum())


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(globals()[name]())
