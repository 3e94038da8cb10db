"""What the simulated device says of itself, and what it refuses: memory, pointers, devices."""

import ctypes
import json
import sys
from collections.abc import Callable

import torch
import torch_npu

acl = ctypes.CDLL("libascendcl.so")


def message(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return " ".join(str(error).split())
    return ""


def copied(destination: int, source: int, size: int, kind: int) -> int:
    return int(
        acl.aclrtMemcpy(
            ctypes.c_void_p(destination), ctypes.c_size_t(size), ctypes.c_void_p(source), ctypes.c_size_t(size), kind
        )
    )


def raw_copies() -> dict[str, int]:
    """A copy's code by what is wrong with it: to-host is 2, to-device is 1."""
    at = ctypes.c_void_p()
    acl.aclrtMalloc(ctypes.byref(at), ctypes.c_size_t(64), 0)
    host = ctypes.create_string_buffer(128)
    here, there = ctypes.addressof(host), at.value
    assert there is not None
    return {
        "right": copied(here, there, 64, 2),
        "wrong way": copied(here, there, 64, 1),
        "device is host": copied(here, here + 64, 64, 2),
        "past the end": copied(here, there, 65, 2),
        "past the end, to the device": copied(there, here, 65, 1),
    }


def main() -> None:
    free, total = torch_npu.npu.mem_get_info()
    told = {
        "name": torch_npu.npu.get_device_name(0),
        "count": torch_npu.npu.device_count(),
        "total": total,
        "used": total - free,
        "poison": sorted(set(torch.empty(1000, dtype=torch.uint8, device="npu").tolist())),
        "copies": raw_copies(),
        "too much": message(lambda: torch.empty(total, dtype=torch.uint8, device="npu")),
        "no such device": message(lambda: torch.ones(1, device="npu:7")),
        "no such operator": message(lambda: torch.special.i0(torch.ones(3, device="npu"))),
        "two devices": message(lambda: torch.ones(3, device="npu") @ torch.ones(3)),
        "not in the simulator": message(lambda: torch.acosh(torch.ones(3, device="npu"))),
        "refused symbol": int(acl.aclrtMapMem()),
        "python": sys.version_info[:2],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
