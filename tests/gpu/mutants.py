"""Kernels with one fault in their source, and who has to see it: the conformance suite's gates, or the interpreter's guard."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deepport.kernel import Kernel
from deepport.spec import Case, case
from gpu.judged import operators


@dataclass(frozen=True)
class Mutant:
    """`old` in the source of a module becomes `new`. `guard`: no gate can see it."""

    operator: str
    fault: str
    module: str
    old: str
    new: str
    given: dict[str, Any]
    guard: bool = False

    def case(self) -> Case:
        return case(next(iter(operators[self.operator].cases)).builder, **self.given)

    def kernel(self, folder: Path, patch: pytest.MonkeyPatch) -> Kernel:
        """The operator's kernel, of its own module loaded again over the changed one."""
        changed, own = self._module(self.module), self._module(_OWNERS.get(self.operator, self.module))
        source = Path(str(changed.__file__)).read_text()
        if source.count(self.old) != 1:
            raise ValueError(f"{self.fault}: {self.old!r} stands {source.count(self.old)} times in {self.module}")
        loaded = _loaded(changed.__name__, source.replace(self.old, self.new), folder, patch)
        if own is not changed:
            loaded = _loaded(own.__name__, Path(str(own.__file__)).read_text(), folder, patch)
        return next(k for k in loaded.KERNELS if k.operator == self.operator)

    def _module(self, name: str) -> ModuleType:
        return import_module(f"deepport_triton.kernels.{name}")


_OWNERS = {
    "linear": "linear",
    "block_linear": "linear",
    "grouped_linear": "linear",
    "moe_experts": "experts",
    "engram_gather": "gather",
}
"""The module that an operator's kernel is in, where a fault may lie in what it imports."""


def _loaded(name: str, source: str, folder: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """A module of this source, under this name until the test ends."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    path.write_text(source)
    spec = util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
