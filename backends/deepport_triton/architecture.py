"""What the kernels know of a chip's architecture: static configurations, and what is not well there, with its reason.

Nothing is tuned at run time. A configuration was found by compiling for the architecture (`deepport compile`): one that spills is
slower on every chip. Which of those that do not spill is fastest nobody has measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from deepport.errors import BadInput
from deepport.finding import Finding, ok, wrong
from deepport.gap import Gap
from deepport.probing import package_version
from deepport_triton import interpreting

if TYPE_CHECKING:
    from deepport.kernel import Kernel

NVIDIA = ("sm_80", "sm_90", "sm_100", "sm_120")
AMD = ("gfx90a", "gfx942", "gfx950", "gfx1100")
"""The architectures for which every kernel is compiled ahead of time, in CI."""


class Shape(NamedTuple):
    """How a program is spread over a chip: its warps, the stages of its loads, and constants of its own there."""

    warps: int
    stages: int
    constants: Mapping[str, int] = {}


CONFIGURATIONS: Mapping[str, Mapping[str, Shape]] = {
    # 16 heads of 512 channels: in four warps they and their sums are more than a thread's registers.
    "_attention_token": dict.fromkeys(("sm_80", "sm_120"), Shape(8, 2))
    | dict.fromkeys(("sm_90", "sm_100"), Shape(8, 3))
    # RDNA3's matrix instruction has every half of a warp hold its whole operand: of 512 channels, all its registers.
    | {"gfx1100": Shape(8, 2, {"slice": 64})},
    # With two stages ptxas saves registers for programs that shared memory does not let in, and spills some.
    "_linear_tile": dict.fromkeys(NVIDIA, Shape(4, 3)),
}
"""By function and architecture, where a launch's own numbers do not do."""

GAPS: Mapping[str, Sequence[Gap]] = {}
"""By architecture, what compiles and is slow there: the baseline may have their spills, and no others. None is known."""


def shape(function: str, architecture: str, otherwise: Shape) -> Shape:
    """The configuration of a function on an architecture; "" is none, such as the interpreter's."""
    return CONFIGURATIONS.get(function, {}).get(architecture, otherwise)


@cache
def architecture_of(index: int) -> str:
    """Of a started GPU, by its number, as its probe names it: `sm_90`, `gfx942`."""
    import torch

    found = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return str(found.gcnArchName).partition(":")[0]
    return f"sm_{found.major}{found.minor}"


def kernels_for(architectures: Iterable[str], known: Sequence[str]) -> Sequence[Kernel]:
    """The kernels, for devices that need not be here; none without Triton. Where they cannot serve, all refuse and say why."""
    if not installed():
        return ()
    from deepport.kernel import no
    from deepport_triton.kernels import KERNELS

    reason = next(
        (f"{a} is none of {', '.join(known)}: nobody compiled for it" for a in architectures if a not in known), ""
    )
    if interpreting():
        reason = "TRITON_INTERPRET=1 has kernels interpreted, on the CPU"
    return (
        [replace(kernel, supports=lambda signature: no("device", reason)) for kernel in KERNELS] if reason else KERNELS
    )


def on_paper(chip: str, known: Sequence[str]) -> tuple[str, Sequence[Kernel]]:
    """What a backend assumes of a chip that is not here, and the kernels for it. Raises BadInput for one that nobody knows."""
    if chip not in known:
        raise BadInput(f"--soc {chip}: no architecture is called so; there are: {', '.join(known)}")
    return f"{chip}, if triton is installed there", kernels_for([chip], known)


def installed() -> str:
    """The version of Triton, "" where there is none."""
    return package_version("triton") if find_spec("triton") else ""


def finding() -> Finding:
    """What `deepport doctor` says of Triton; without it a run works all the same."""
    if found := installed():
        return ok("triton", f"{found}; kernels are compiled when they are first called")
    what = "is not installed: references compute every operator, on the device and slowly"
    return wrong("triton", what, "pip install 'deepport[triton]'", advice=True)
