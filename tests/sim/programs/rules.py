"""Every rule, broken and kept: prints for each function of this file what was found, by which operator and at which line.

A function named after a rule breaks it in the line that ends in `# here`; one that begins with `kept` keeps it.
"""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepport import backend, ops
from deepport_sim import device

backend.start("sim")
MEMORY = 64 << 20
device.configure(MEMORY, {})

FUNCTIONS: list[Callable[[], Any]] = []


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    FUNCTIONS.append(function)
    return function


def ones(*shape: int, on: str = "sim") -> Tensor:
    return torch.ones(*shape, device=on)


@case
def mixed_devices() -> None:
    x, y = ones(3), torch.ones(3)
    x + y  # here


@case
def mixed_devices_in_our_operator() -> None:
    x, weight = ones(2, 8), torch.ones(8)
    ops.rms_norm(x, weight, 1e-6)  # here


@case
def mixed_devices_of_one_kind() -> None:
    x, y = ones(3), ones(3, on="sim:1")
    x + y  # here


@case
def mixed_devices_after_a_kernel_s_own_error() -> None:
    pages, table = torch.zeros(1, 16, 3, device="sim"), torch.zeros(1, 1, dtype=torch.int32, device="sim")
    beyond, ends = torch.tensor([99], device="sim"), torch.tensor([0, 1], dtype=torch.int32, device="sim")
    try:
        ops.write_pages_(pages, table, ones(1, 3), beyond, ends)
    except (IndexError, RuntimeError, ValueError) as error:
        x, y, _kept = ones(3), torch.ones(3), error
        x + y  # here


@case
def kept_mixed_devices() -> None:
    x = ones(3) + torch.tensor(2.0) + torch.ones(3).to("sim") + ones(3, on="sim:1").to("sim:0")
    ops.rms_norm(x.expand(2, 3), None, 1e-6)


@case
def implicit_sync_item() -> None:
    x = ones(3).sum()
    x.item()  # here


@case
def implicit_sync_truth() -> None:
    x = ones(3) > 2
    if x.any():  # here
        raise AssertionError


@case
def implicit_sync_nonzero() -> None:
    x = ones(3)
    torch.nonzero(x)  # here


@case
def implicit_sync_mask() -> None:
    x = ones(3)
    x[x > 0]  # here


@case
def implicit_sync_unpinned() -> None:
    x = ones(3) * 2
    torch.empty(3).copy_(x, non_blocking=True)  # here


@case
def kept_implicit_sync() -> None:
    x = ones(3).sum()
    torch.sim.synchronize()
    x.item()
    str(ones(3))  # who prints may wait
    torch.ones(3).pin_memory().to("sim", non_blocking=True)
    torch.where(ones(3) > 0, 1.0, 0.0).masked_fill(ones(3) > 0, 2.0)


@case
def host_copy() -> None:
    with device.under(host_copy="error"):
        x = ones(3) * 2
        x.tolist()  # here


@case
def kept_host_copy() -> None:
    ones(3).tolist()  # allowed where nobody forbids it
    with device.under(host_copy="error"):
        x = ones(3) * 2
        torch.accelerator.current_stream().synchronize()
        x.tolist()


@case
def reference_sync() -> None:
    x = torch.arange(4.0, device="sim").double()  # no kernel takes it: the reference, which waits
    with device.under(reference_sync="error"):
        segments = torch.tensor([0, 4], dtype=torch.int32, device="sim")
        positions = torch.arange(4, device="sim")
        table, pages = torch.zeros(1, 1, dtype=torch.int32, device="sim"), torch.zeros(1, 16, 1, device="sim").double()
        ops.index_topk(x.view(4, 1, 1), x.view(4, 1), pages, table, positions, segments, 4, 1)


@case
def kept_reference_sync() -> None:
    x = torch.arange(4.0, device="sim").double()
    segments = torch.tensor([0, 4], dtype=torch.int32, device="sim")
    table, pages = torch.zeros(1, 1, dtype=torch.int32, device="sim"), torch.zeros(1, 16, 1, device="sim").double()
    ops.index_topk(x.view(4, 1, 1), x.view(4, 1), pages, table, torch.arange(4, device="sim"), segments, 4, 1)


@case
def fallback() -> None:
    x = ones(3)
    device.lack(["aten::sort"])
    try:
        x.sort()  # here
    finally:
        device.lack([])


@case
def kept_fallback() -> None:
    ones(3).sort()


@case
def stream_order_read_too_early() -> None:
    x, side = ones(3) * 2, torch.Stream("sim")
    with side:
        x + 1  # here


@case
def stream_order_written_too_early() -> None:
    x, side = ones(3), torch.Stream("sim")
    side.wait_stream(torch.accelerator.current_stream())
    with side:
        y = x * 2
    x.zero_()  # here
    del y


@case
def stream_order_of_our_operators() -> None:
    x, side = ones(2, 8), torch.Stream("sim")
    with side:
        ops.rms_norm(x, None, 1e-6)  # here


@case
def stream_order_of_a_copy() -> None:
    host, side = torch.ones(3).pin_memory(), torch.Stream("sim")
    with side:
        x = host.to("sim", non_blocking=True)
    x + 1  # here


@case
def kept_stream_order() -> None:
    x, side, main = ones(4) * 2, torch.Stream("sim"), torch.accelerator.current_stream()
    side.wait_stream(main)
    x.record_stream(side)
    with side:
        y = x + 1
    z = x + 2  # both read
    main.wait_stream(side)
    y.record_stream(main)
    y + z
    halves = ones(8)
    side.wait_stream(main)
    halves.record_stream(side)
    with side:
        halves[:4].zero_()
    halves[4:].zero_()  # other bytes
    event = torch.Event("sim")
    with side:
        late = ones(3) * 3
        event.record()
    event.synchronize()  # the host has waited: what it asks for now comes later
    late.record_stream(main)
    late * 2
    torch.sim.synchronize()


@case
def record_stream() -> None:
    x, side = ones(64), torch.Stream("sim")
    side.wait_stream(torch.accelerator.current_stream())
    with side:
        y = x * 2
    del x  # here
    y.cpu()


@case
def kept_record_stream() -> None:
    main, side = torch.accelerator.current_stream(), torch.Stream("sim")
    x, w = ones(64), ones(64)
    side.wait_stream(main)
    with side:
        y = x * 2 + w
    x.record_stream(side)
    del x
    main.wait_stream(side)
    del w
    y.record_stream(main)
    torch.sim.synchronize()


@case
def staging() -> None:
    host = torch.ones(64).pin_memory()
    x = host.to("sim", non_blocking=True)  # here
    host.fill_(2.0)
    torch.sim.synchronize()
    del x


@case
def staging_after_it_was_used() -> None:
    host = torch.ones(64).pin_memory()
    x = host.to("sim", non_blocking=True)  # here
    x * 2  # the device goes on; the host knows nothing
    host.fill_(2.0)
    torch.sim.synchronize()


@case
def kept_staging() -> None:
    x = ones(5000).to("cpu", non_blocking=True)
    torch.sim.synchronize()
    assert x.sum() == 5000
    host, event = torch.ones(2, 64).pin_memory(), torch.Event("sim")
    y = host[0].to("sim", non_blocking=True)
    event.record()
    host[1].fill_(3.0)
    event.synchronize()
    host.fill_(2.0)
    torch.sim.synchronize()
    assert y.tolist() == [1.0] * 64


@case
def uninitialised() -> None:
    x = torch.empty(3, device="sim")
    x + 1  # here


@case
def uninitialised_in_part() -> None:
    x = torch.empty(4, 8, device="sim", dtype=torch.bfloat16)
    x[:3] = 1.0
    x.sum()  # here


@case
def uninitialised_after_moves() -> None:
    x = torch.empty(4, 8, device="sim")
    y = torch.cat([x.clone(), ones(1, 8)])[1:]
    ops.rms_norm(y, None, 1e-6)  # here


@case
def uninitialised_and_added_to() -> None:
    x = torch.empty(4, device="sim")
    x.add_(1.0)  # here


@case
def uninitialised_indices() -> None:
    x = torch.empty(4, device="sim", dtype=torch.int64)
    x * 2  # here


@case
def kept_uninitialised() -> None:
    x = torch.empty(4, 8, device="sim")
    x[:3] = 1.0
    x[:3].sum()
    moved = x.clone()
    moved[3].fill_(2.0)
    moved.sum()
    torch.empty(3, device="sim").normal_().exp()
    torch.full((3,), float("nan"), device="sim") + 1  # a NaN that somebody wrote


@case
def out_of_memory() -> None:
    torch.empty(MEMORY + 1, dtype=torch.uint8, device="sim")  # here


@case
def kept_out_of_memory() -> None:
    for _ in range(3):
        torch.empty(MEMORY // 4 * 3, dtype=torch.uint8, device="sim:1")
    assert torch.sim.max_memory_allocated("sim:1") == MEMORY // 4 * 3


def attempt(function: Callable[[], Any]) -> dict[str, Any]:
    device.forget()
    told: dict[str, Any] = {"raised": None}
    try:
        function()
        torch.sim.synchronize()
    except (RuntimeError, NotImplementedError) as error:
        told["raised"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    found = device.findings()
    device.forget()
    torch.sim.synchronize()
    places = [f.site.rpartition(":") for f in found]
    lines = [linecache.getline(path, int(line)) if line.isdecimal() else "" for path, _, line in places]
    return told | {"rules": [f.rule for f in found], "ops": [f.op for f in found], "lines": lines}


if __name__ == "__main__":
    torch.set_warn_always(True)
    for rule_and_policy in sys.argv[1:]:
        device.set_policy(*rule_and_policy.split("="))
    print(json.dumps({f.__name__: attempt(f) for f in FUNCTIONS}))
