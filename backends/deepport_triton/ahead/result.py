"""What came of compiling one job for one target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a baseline is read where no model and no Triton is
    from deepport_triton.ahead.job import Job
    from deepport_triton.ahead.target import Target

EVIDENCE = "E3"


@dataclass(frozen=True)
class Compiled:
    """One function, compiled for a target.

    Attributes:
        name, label: of its job, for machines and for people.
        reason: the compiler's, where it refuses; "" where it has made code.
        registers: of a thread.
        spills: bytes of local memory of a thread, in the device's memory.
        shared: bytes of shared memory, of `limit`.
        code: bytes of instructions.
        instructions: those found that multiply matrices.
        product: whether there should be one.
        seconds: in this run; Triton's cache answers at once.
    """

    operator: str
    name: str
    label: str
    target: str
    seconds: float
    reason: str = ""
    registers: int = 0
    spills: int = 0
    shared: int = 0
    limit: int = 0
    code: int = 0
    instructions: tuple[str, ...] = ()
    product: bool = False

    def faults(self) -> tuple[str, ...]:
        """Why the target cannot run it well, or at all."""
        beyond = bool(self.limit) and self.shared > self.limit
        found = {
            f"refused: {self.reason}": bool(self.reason),
            f"spills {self.spills} bytes": bool(self.spills),
            f"needs {self.shared} bytes of shared memory, of {self.limit}": beyond,
            "multiplies matrices without a matrix instruction": self.product and not self.instructions,
        }
        return tuple(text for text, wrong in found.items() if wrong)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"faults": self.faults()}


def result(job: Job, target: Target, answer: Mapping[str, Any]) -> Compiled:
    """What a worker answered."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in answer.items()}
    return Compiled(job.operator, job.name, job.label, target.name, limit=target.shared, **given)
