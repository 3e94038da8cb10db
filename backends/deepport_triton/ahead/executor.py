"""A process that runs operators' cases by Ascend's IR: `python executor.py FD`, asked by `deepport_triton.ahead.execute`.

It asks a process with triton-ascend for libraries. A kernel that crashes takes it down, and costs one case.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Connection
from typing import Any

import torch

from deepport.conformance.assemble import described
from deepport.conformance.execute import Implementation, execute
from deepport.conformance.judge import judge
from deepport.conformance.oracle import truth
from deepport.conformance.trial import drawn
from deepport.kernel import Kernel
from deepport.op import operators
from deepport.spec import Case
from deepport_triton.accepted import answer
from deepport_triton.ahead import run
from deepport_triton.ahead.host import Host, NotHere
from deepport_triton.ahead.target import TARGETS
from deepport_triton.kernels import KERNELS
from deepport_triton.launch import noted, taken


def executed(kernel: Kernel, case: Case, target: str, host: Host) -> dict[str, Any]:
    """Which gates a case fails by the kernel's IR; or the reason why it cannot be run."""
    operator = operators[kernel.operator]
    arguments = drawn(operator, case)
    support = answer(kernel, target, operator.signature(tuple(arguments.values())))
    if not support:
        return {"reason": support.reason}
    subject = Implementation(operator, kernel.name, kernel.run, False, torch.device("cpu"), None)
    try:
        with noted(target) as launches:
            kernel.run(*drawn(operator, case).values())
        host.prepare(launches)
        with taken(host.launch, target):
            done = execute(subject, arguments)
    except NotHere as refusal:
        return {"reason": str(refusal)}
    found = list(done.gates)
    if done.outputs is not None:
        found += judge(operator, arguments, done.outputs, truth(operator, arguments))
    return {"failed": [described(gate) for gate in found if gate.status == "fail"]}


def main(descriptor: int) -> None:
    kernels = {k.operator: k for k in KERNELS}
    compiler, hosts = run.worker(for_npu=True), dict[str, Host]()
    with Connection(descriptor) as asking:
        while True:
            try:
                message = json.loads(asking.recv_bytes())
            except EOFError:
                return compiler.close()
            target, kernel = message["target"], kernels[message["operator"]]
            host = hosts.setdefault(target, Host(TARGETS[target], lambda asked: compiler.ask(asked)[0]))
            cases = {case.label: case for case in operators[kernel.operator].cases}
            found = executed(kernel, cases[message["case"]], target, host)
            asking.send_bytes(json.dumps({"frames": 0, **found}).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
