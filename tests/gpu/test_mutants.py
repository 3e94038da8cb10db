"""Faults in kernels are seen: most by the gates, and by the guard what no gate can see."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from triton.runtime.errors import InterpreterError

from deepport.kernel import Kernel
from deepport.spec import Case
from deepport_triton import guard
from deepport_triton.kernels import KERNELS
from gpu.faults import MUTANTS
from gpu.judged import failures
from gpu.mutants import Mutant


def seen(kernel: Kernel, case: Case) -> list[str]:
    """What gates or guard say."""
    try:
        return failures(kernel, case)
    except InterpreterError as error:
        if isinstance(error.__cause__, guard.KernelFault):
            return [f"guard: {error.__cause__}"]
        raise


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.operator}: {m.fault}")
def test_a_fault_is_seen(mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, case = mutant.kernel(tmp_path, monkeypatch), mutant.case()
    told = seen(kernel, case)
    assert told and not told[0].startswith("refused"), told
    if mutant.guard:
        assert told[0].startswith("guard:"), told
        monkeypatch.setattr(guard, "guarded", lambda tensors: nullcontext())
        with np.errstate(all="ignore"):
            assert not failures(kernel, case)


def test_every_kernel_has_two() -> None:
    counted = {k.operator: sum(m.operator in (k.operator, f"{k.operator}_") for m in MUTANTS) for k in KERNELS}
    assert all(n >= 2 for n in counted.values()), counted
