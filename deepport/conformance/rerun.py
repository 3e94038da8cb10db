"""A bundle run again: the recorded call, by the recorded implementation or another backend's, before the same gates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.backend import Started, start
from deepport.conformance.bundle import Bundle, kernel_of, read
from deepport.conformance.environment import kernel_hash, spec_hash
from deepport.conformance.execute import Implementation, execute
from deepport.conformance.judge import itself, judge
from deepport.conformance.oracle import Arguments
from deepport.conformance.result import REFERENCE, Gate
from deepport.op import Operator, operators
from deepport.policy import Session


@dataclass(frozen=True)
class Rerun:
    """A recorded call again.

    Attributes:
        implementation: which ran.
        gates: what they say now.
        changed: what is not as it was when the bundle was written.
    """

    implementation: str
    gates: list[Gate]
    changed: tuple[str, ...]

    @property
    def passes(self) -> bool:
        return all(g.status != "fail" for g in self.gates)


def rerun(folder: Path, backend: str | None = None) -> Rerun:
    """Run a bundle's implementation, or the one by which `backend` serves, on the recorded inputs, and judge again.

    Another call, on other numbers in the same shapes, comes before it: what a kernel keeps from one call to the next shows only
    then. Raises BackendUnavailable where the implementation is not here.
    """
    bundle = read(folder)
    operator = operators[bundle.operator]
    arguments = {n: bundle.arguments[n] for n in operator.parameters}
    started = start(backend or bundle.backend)
    subject = _subject(operator, bundle, started, arguments if backend else None)
    with Session(backend=started.name):  # a kernel that is composed of operators is served by its own backend
        _prime(subject, arguments)
        done = execute(subject, arguments)
    judged = [] if done.outputs is None else judge(operator, arguments, done.outputs, bundle.expected)
    if subject.reference and subject.device.type == "cpu":
        judged = itself(judged)
    return Rerun(subject.name, [*done.gates, *judged], tuple(_changed(bundle, subject)))


def _subject(
    operator: Operator[..., Any], bundle: Bundle, started: Started, serving: Arguments | None
) -> Implementation:
    """What was recorded or, given arguments, what serves them."""
    kernel, implementation = None, REFERENCE
    if serving is None:
        kernel, implementation = kernel_of(bundle.operator, bundle.implementation), bundle.implementation
    else:
        signature = operator.signature(tuple(serving.values()))
        kernel = next((k for k in started.kernels.get(operator.name, []) if k.supports(signature)), None)
        implementation = f"{started.name}/{kernel.name}" if kernel else REFERENCE
    run = operator.reference if kernel is None else kernel.run
    device = torch.device(started.device_type)
    return Implementation(operator, implementation, run, kernel is None, device, started.runtime)


def _prime(subject: Implementation, arguments: Arguments) -> None:
    """A call on the same numbers, each in its neighbour's place."""
    own = {n: tree_map_only(Tensor, lambda t: _displaced(t).to(subject.device), a) for n, a in arguments.items()}
    with torch.no_grad():
        subject.run(*own.values())


def _displaced(t: Tensor) -> Tensor:
    """Floats moved on by one element; ids, and what is quantised, must stay what they are."""
    if not t.is_floating_point() or t.element_size() == 1:
        return t.clone()
    own = t.clone() if 0 in t.stride() else torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)
    return own.copy_(t.flatten().roll(1).view(t.shape))


def _changed(bundle: Bundle, subject: Implementation) -> list[str]:
    now = kernel_of(bundle.operator, subject.name)
    found = []
    if subject.name != bundle.implementation:
        found.append(f"{bundle.implementation} was recorded")
    elif now is not None and kernel_hash(now) != bundle.kernel_hash:
        found.append("the kernel's files are others than when it was recorded")
    if spec_hash(subject.operator) != bundle.spec_hash:
        found.append(f"{bundle.operator}'s definition is another than when it was recorded")
    return found
