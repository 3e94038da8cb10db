"""A kernel before the conformance suite's own gates, in this process: what fails, in words."""

from __future__ import annotations

import torch

import deepport.ops  # noqa: F401  (declares the operators)
from deepport.conformance.assemble import described
from deepport.conformance.execute import Implementation, execute
from deepport.conformance.judge import judge
from deepport.conformance.oracle import truth
from deepport.conformance.trial import drawn
from deepport.kernel import Kernel
from deepport.op import operators
from deepport.spec import Case
from deepport_triton import backend

backend.start()


def failures(kernel: Kernel, case: Case) -> list[str]:
    """The gates that this kernel fails on a case; where it refuses the case, that."""
    operator = operators[kernel.operator]
    arguments = drawn(operator, case)
    support = kernel.supports(operator.signature(tuple(arguments.values())))
    if not support:
        return [f"refused, {support.code}: {support.reason}"]
    subject = Implementation(operator, kernel.name, kernel.run, False, torch.device("cpu"), None)
    done = execute(subject, arguments)
    found = list(done.gates)
    if done.outputs is not None:
        found += judge(operator, arguments, done.outputs, truth(operator, arguments))
    return [described(gate) for gate in found if gate.status == "fail"]
