"""Which backend has a kernel of its own for which operator: the table in README, printed by `python -m deepport.support`.

Everywhere else the operator is served by its reference, plain torch on the backend's own device.
"""

from __future__ import annotations

from deepport import backend, ops
from deepport.kernel import Kernel
from deepport.op import Operator

BEGIN, END = "<!-- support: python -m deepport.support -->", "<!-- /support -->"
_TRITON = "E3, compiled for: `ci/compile`; E4, interpreted: `ci/conform`"
EVIDENCE = {
    "cpu": "E5, executed on the chip: `ci/conform`",
    "cuda": _TRITON,
    "rocm": _TRITON,
    "npu": "E4, simulated: `ci/ascend`; `triton` as it says: E3, accepted up to HIVM; E4, its IR run on x86: `ci/compile`",
}
"""How far what is said of a backend has been tried (`deepport.conformance.result.EVIDENCE`), and by which script of CI."""

IN_TREE = tuple(EVIDENCE)


def table(backends: tuple[str, ...] = IN_TREE) -> str:
    """A Markdown table: operators by backends, kernels by name in the order in which they are asked."""
    kernels = {name: backend.accepted(name, backend.get(name).kernels()) for name in backends}
    rows = [["operator", *backends], ["---"] * (1 + len(backends))]
    rows.append(["*evidence*", *(EVIDENCE.get(b, "") for b in backends)])
    for name in ops.__all__:
        if isinstance(getattr(ops, name), Operator):
            cells = (", ".join(_told(b, k) for k in kernels[b].get(name, [])) or "reference" for b in backends)
            rows.append([f"`{name}`", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _told(name: str, kernel: Kernel) -> str:
    """A kernel, with what its backend knows of it alone."""
    known = getattr(backend.get(name), "evidence", lambda kernel: "")(kernel)
    return f"{kernel.name} ({known})" if known else kernel.name


def replace(text: str, table: str) -> str:
    """The text with the table between its marks; ValueError where it has none."""
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"there is no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


if __name__ == "__main__":
    print(table())
