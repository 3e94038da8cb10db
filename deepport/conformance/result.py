"""What a conformance run found, as a file: versioned JSON whose schema these classes are.

`schema.json` beside this file is the JSON schema, as `python -m deepport.conformance.result` prints it. A report says what ran,
and no more: `status` is never "pass" for a case that did not run, and `evidence` never exceeds how the kernel was executed.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deepport.conformance.profile import PROFILES as PROFILES
from deepport.conformance.profile import Profile as Profile

SCHEMA: Literal["deepport.conformance/1"] = "deepport.conformance/1"

Status = Literal["pass", "fail", "unsupported", "gap", "error", "timeout", "not_run"]
"""What became of a case. `gap`: it fails, as its backend has declared with a reason."""

Evidence = Literal["E1", "E2", "E3", "E4", "E5"]
EVIDENCE: dict[Evidence, str] = {
    "E1": "schema checked",
    "E2": "shapes checked by the vendor's meta functions",
    "E3": "accepted by the vendor's compiler",
    "E4": "executed by an interpreter or a simulator",
    "E5": "executed on the chip",
}

REFERENCE = "reference"
"""The implementation of a case that no kernel takes."""


MODEL = "model"
"""What stands for an operator, and for its grid, where a case is a whole model, which kernels compute together."""

SPY = "served by"
"""The measurement that passes where production, asked through the dispatcher, called the implementation that a result names."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Gate(_Frozen):
    """One measurement and its bound.

    Attributes:
        gate: G0 exact, G1 contract, G2 own error, G3 locality, G4 bias, G5 selection, G6 composition.
        metric: what was measured, such as `rms` or `inputs unchanged`, of which output.
        status: `not applicable` where the comparison would be with itself.
        value, bound: the measurement passes where `value <= bound`; None for a yes-or-no check.
        detail: where and what, for a person.
    """

    gate: Literal["G0", "G1", "G2", "G3", "G4", "G5", "G6"]
    metric: str
    status: Literal["pass", "fail", "not applicable"]
    value: float | None = None
    bound: float | None = None
    detail: str = ""

    @property
    def margin(self) -> float | None:
        """The share of the bound that is used up: above 1 the gate fails, and what is not a number is past every bound."""
        if self.value is None or self.bound is None:
            return None
        share = self.value / self.bound if self.bound > 0 else (0.0 if self.value <= 0 else math.inf)
        return math.inf if math.isnan(share) else share


class CaseKey(_Frozen):
    """All that is needed to draw a case's arguments again.

    Attributes:
        grid: where its shapes are from: `operator` (declared beside it), `v4-flash`, `v4-pro` (captured), `generated`, `special`.
        label: the parameters in one line; unique within operator and grid.
        builder: the registered function that draws the arguments, called with `parameters`.
        variant: what is then done to them: `strided`, `huge`, `denormal`, `far`; "" for nothing.
        note: what was scaled down, and why.
    """

    grid: str
    label: str
    builder: str
    parameters: dict[str, Any]
    variant: str = ""
    seed: int = 0
    note: str = ""


class Yardstick(_Frozen):
    """The reference's own run: in the case's dtypes, on the CPU, by one thread, in a process of its own.

    `rms` and `max` are its errors against float64, over all outputs that are judged by their size.
    """

    hash: str
    rms: float
    max: float


class Result(_Frozen):
    """One implementation's answer to one case.

    Attributes:
        id: short, stable name of (operator, grid, case, implementation); `deepport repro ID` runs it again.
        dtype: of the operator's main argument.
        implementation: `<backend>/<kernel>`, or `reference`: plain torch on the backend's device.
        serving: production would choose this implementation for this case. Only these count in the headline.
        kernel_hash: of the files that the kernel is made of, "" for a reference.
        spec_hash: of the operator's schema and its reference's source.
        reason: why it failed, is a gap, was not run; "" for a pass.
        link: of a gap.
        nulls: kernels that compute nothing, by name, and whether the gates saw it: `killed`, `survived`, or `trivial` where the
            right answer is what the null kernel gives.
        arguments: dtype, shape and stride of tensors; scalars as they are.
        seconds: wall time of one call without guards; device_seconds: by the device's own clock.
    """

    id: str
    operator: str
    case: CaseKey
    dtype: str
    implementation: str
    serving: bool
    kernel_hash: str
    spec_hash: str
    status: Status
    evidence: Evidence
    reason: str = ""
    link: str = ""
    gates: tuple[Gate, ...] = ()
    nulls: dict[str, Literal["killed", "survived", "trivial"]] = {}
    arguments: dict[str, Any] = {}
    input_hash: str = ""
    yardstick: Yardstick | None = None
    seconds: float = 0.0
    device_seconds: float = 0.0
    bytes: float = 0.0
    flops: float = 0.0
    command: str = ""

    @property
    def by_kernel(self) -> bool:
        return not self.implementation.startswith(REFERENCE)

    @property
    def worst(self) -> Gate | None:
        """The measurement that uses up most of its bound."""
        measured = [g for g in self.gates if g.margin is not None and g.status != "not applicable"]
        return max(measured, key=lambda g: g.margin or 0.0, default=None)


class MutantResult(_Frozen):
    """A deliberately wrong implementation, and whether the suite noticed.

    `by` is the gate and the case that did; `tried` how many cases it was run on. `equivalent` needs its `reason`.
    """

    name: str
    operator: str
    fault: str
    status: Literal["killed", "survived", "equivalent", "error", "not_run"]
    by: str = ""
    tried: int = 0
    reason: str = ""


class KernelInfo(_Frozen):
    """A kernel, and what it said to the cases: how many it takes, and why not the others, by reason."""

    operator: str
    name: str
    hash: str
    takes: int
    refuses: dict[str, int] = {}


class DeviceInfo(_Frozen):
    name: str
    architecture: str = ""
    memory: int = 0
    index: int = 0


class Report(_Frozen):
    """A whole run.

    Attributes:
        environment: versions of the driver, torch, Python, the operating system, ...; threads.
        requested: the command line.
        operators: the operators that were asked for; empty for all.
        mutants: None where they were not asked for.
        problems: what fails the run and belongs to no case, such as a declared gap that matches nothing.
        complete: every case was run to an answer. `stopped` says why not.
        digest: sha256 over everything else (`sealed`).
    """

    format: Literal["deepport.conformance/1"] = SCHEMA
    deepport: str
    created: str
    backend: str
    simulates: str = ""
    device: DeviceInfo
    evidence: Evidence
    profile: Profile
    operators: tuple[str, ...] = ()
    requested: str = ""
    environment: dict[str, str]
    kernels: tuple[KernelInfo, ...]
    results: tuple[Result, ...]
    mutants: tuple[MutantResult, ...] | None = None
    problems: tuple[str, ...] = ()
    complete: bool = True
    stopped: str = ""
    seconds: float = 0.0
    digest: str = ""

    def sealed(self) -> Report:
        """The report with its digest."""
        return self.model_copy(update={"digest": _digest(self)})

    @property
    def whole(self) -> bool:
        """It is as it was sealed."""
        return self.digest == _digest(self)


def _digest(report: Report) -> str:
    # Of what a file holds, in which a NaN among a case's parameters is a string, so that a report read back has the same.
    content = json.loads(report.model_dump_json(exclude={"digest"}))
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    print(json.dumps(Report.model_json_schema(), indent=2))
