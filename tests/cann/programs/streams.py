"""A result that is used with the waits that it needs, and without."""

import json

import torch
import torch_npu


def handed_over(wait: bool) -> float:
    """A number computed on one stream and copied on another."""
    x = torch.full((1000,), 3.0, device="npu")
    result = torch.zeros(1000, device="npu")
    torch_npu.npu.synchronize()
    maker, taker = torch_npu.npu.Stream(), torch_npu.npu.Stream()
    with torch_npu.npu.stream(maker):
        y = x * 2
        ready = maker.record_event()
    with torch_npu.npu.stream(taker):
        if wait:
            taker.wait_event(ready)
        result.copy_(y)
    taker.synchronize()
    return float(result.cpu()[0])


def read_on_the_host(wait: bool) -> float:
    pinned = torch.zeros(1000, pin_memory=True)
    x = torch.full((1000,), 5.0, device="npu")
    pinned.copy_(x + 1, non_blocking=True)
    if wait:
        torch_npu.npu.synchronize()
    return float(pinned[0])


def main() -> None:
    told = {
        "streams": handed_over(True),
        "streams, no wait": repr(handed_over(False)),
        "host": read_on_the_host(True),
        "host, no wait": read_on_the_host(False),
    }
    x = torch.ones(4, device="npu")
    for _ in range(50):
        x = x + 1
    told["chain"] = x.sum().item()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
