"""Dry runs at true dimensions: prints bytes by class as they were allocated and as they are planned, time and memory used."""

from __future__ import annotations

import json
import resource
import time
from typing import Any, get_args

import torch

from deepport import backend
from deepport.planning.estimate import Load, Planner
from deepport.planning.plan import in_format
from deepport.planning.sizes import Placement
from deepport_sim import device
from deepport_sim.dry import dry

LOADS = {
    "v4-pro in bfloat16": ("v4-pro", "plain", Load(8192, 1, 512, "device")),
    "v4-pro in a checkpoint's formats": ("v4-pro", "mxfp4+fp8", Load(131072, 8, 512, "device")),
    "v4-flash in bfloat16": ("v4-flash", "plain", Load(8192, 64, 512, "device")),
    "v4-flash in a checkpoint's formats": ("v4-flash", "mxfp4+fp8", Load(1 << 20, 4, 2048, "device")),
    **{
        f"v4-flash with memories, {place}": ("v4-flash-engram", "mxfp4+fp8+fp8", Load(65536, 2, 512, place))
        for place in get_args(Placement)
    },
}


def run(model: str, format: str, load: Load) -> dict[str, Any]:
    begin = time.process_time()
    found = dry(in_format(model, None, format), load.batch, load.context, load.chunk, load.engram)
    seconds = time.process_time() - begin
    planned = Planner(in_format(model, None, format)).sizes(load)
    return {
        "allocated": found.parts, "planned": {p.name: p.bytes for p in planned.parts if p.place == "device"},
        "elsewhere": sum(found.elsewhere.values()), "planned elsewhere": planned.elsewhere("host") + planned.elsewhere("mmap"),
        "seconds": seconds,
    }  # fmt: skip


def refused() -> list[str]:
    """What asking dry memory for data is answered with."""
    backend.start("sim")
    device.native().set_dry(True)
    x, said = torch.ones(1 << 20, 1 << 20, device="sim").sum(), []
    for ask in (x.item, x.cpu, lambda: torch.nonzero(x)):
        try:
            ask()
        except (RuntimeError, NotImplementedError) as error:
            said.append(str(error).splitlines()[0])
    device.native().set_dry(False)
    return said


if __name__ == "__main__":
    told: dict[str, Any] = {name: run(*asked) for name, asked in LOADS.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device.native().set_capacity(1 << 43)
    print(json.dumps(told | {"memory": peak, "refused": refused()}))
