"""`python -m cann.run [options] -- -m deepport.run --device npu ...`: run Python with the simulated NPU.

What follows `--` are Python's arguments. The program and every process that it starts see torch_npu and CANN; nothing is
installed, and nothing of it outlives the program. No chip is involved: results are evidence of calls that are right
(E4), never of what an Ascend computes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cann import chips
from cann.build import built
from cann.faults import Plan
from cann.wheel import Missing, wheel

GIB = 1 << 30


def environment(options: argparse.Namespace, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables with which a process sees the simulated NPU. Raises Missing."""
    vendor = wheel()
    libraries, tests = built(vendor), Path(__file__).parents[1]
    settings = {
        "CANN_SIMULATOR_SOC": chips.soc(options.soc),
        "CANN_SIMULATOR_VERSION": options.cann,
        "CANN_SIMULATOR_DEVICES": str(options.devices),
        "CANN_SIMULATOR_MEMORY": str(int(options.memory * GIB)),
        "CANN_SIMULATOR_LAZY": str(int(options.lazy)),
        "CANN_SIMULATOR_FAULTS": options.fault,
        "CANN_SIMULATOR_REPORT": options.report,
        "TASK_QUEUE_ENABLE": str(options.task_queue),
        "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",  # the vendor's own switch: an operator that it lacks is an error
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        "ASCEND_HOME_PATH": str(libraries),
        "ASCEND_OPP_PATH": str(libraries / "opp"),
        "LD_LIBRARY_PATH": _path(base, "LD_LIBRARY_PATH", libraries, vendor / "torch_npu" / "lib"),
        "PYTHONPATH": _path(base, "PYTHONPATH", tests, vendor),
    }
    if options.task_queue:
        settings["LD_PRELOAD"] = _path(base, "LD_PRELOAD", libraries / "libunlock.so")
    return {**base, **settings}


def _path(base: Mapping[str, str], name: str, *folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [base.get(name)])])


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m cann.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--soc", default="A2", help="A2, A3, A5 or a chip's name")
    found.add_argument("--cann", default=chips.CANN, help="CANN's version")
    found.add_argument("--devices", type=int, default=1, help="how many NPUs there are")
    found.add_argument("--memory", type=float, default=8, help="each one's memory in GiB")
    found.add_argument("--lazy", action="store_true", help="nothing runs until something waits for it")
    found.add_argument("--task-queue", type=int, choices=(0, 1), default=0, help="torch_npu's own queue of calls")
    found.add_argument(
        "--fault", default="", metavar="PLAN", help="what goes wrong, such as aclnnMm@3=561000 (faults.py)"
    )
    found.add_argument(
        "--report", default="", metavar="FILE", help="a JSON line per process: operators and copies, counted"
    )
    found.add_argument("command", nargs="+", help="Python's arguments")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        Plan.parse(options.fault)
        variables = environment(options)
    except (Missing, ValueError) as why:
        sys.exit(f"cann.run: {why}")
    os.execve(sys.executable, [sys.executable, *options.command], variables)


if __name__ == "__main__":
    main()
