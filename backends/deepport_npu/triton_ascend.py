"""triton-ascend, the Triton of Ascend: whether it is the one that the kernels were accepted by, and can be imported.

It is a distribution of its own that installs the package `triton`, as the other Triton does: of both in one environment nobody
knows whose files are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from deepport.finding import Finding, ok, wrong
from deepport.probing import package_version, printable

NAME = "triton_ascend"
"""The key of its version."""


def version() -> str:
    """Of the one that is installed alone, "" where there is none."""
    return "" if package_version("triton") else package_version("triton-ascend")


def wanted() -> str:
    """The version whose compiler has accepted the kernels."""
    from deepport_triton.ahead import baseline  # which needs no torch

    return baseline.read().compilers["triton-ascend"]


def missing(versions: Mapping[str, str]) -> str:
    """What keeps its kernels from being launched, by these versions, and what to do; "" for nothing. It is not imported."""
    accepted = wanted()
    fix = f"pip install triton-ascend=={accepted} pybind11"
    if not (found := versions.get(NAME, "")):
        other = package_version("triton")
        if other and package_version("triton-ascend"):
            return f"triton-ascend and triton {other} are installed over each other: pip uninstall both, then {fix}"
        return f"triton-ascend is not installed: {fix}"
    if found != accepted:
        return f"triton-ascend is {found}, and {accepted} has accepted the kernels: {fix}"
    return ""


def unusable() -> str:
    """Why the kernels cannot be imported here, "" where they can: on paper any Triton will do."""
    try:
        import_module("deepport_triton.kernels")
    except Exception as error:  # a missing library, another interpreter, whatever a vendor's package raises
        return f"triton cannot be imported: {printable(f'{type(error).__name__}: {error}')}"
    from deepport_triton import interpreting

    return "TRITON_INTERPRET=1 has kernels interpreted, on the CPU" if interpreting() else ""


def finding(found: str) -> Finding:
    """What `deepport doctor` says of this version; without it a run works all the same."""
    if reason := missing({NAME: found}):
        what, _, fix = reason.partition(": ")
        return wrong("triton-ascend", f"{what}: references compute what CANN has no operator for", fix, advice=True)
    return ok("triton-ascend", f"{found}; kernels are compiled when they are first called")
