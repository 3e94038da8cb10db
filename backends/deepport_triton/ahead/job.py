"""What a compiler is given: a launch's types, constants and options, without its data. Jobs cross to other processes as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from torch import Tensor

from deepport_triton.ahead.target import Target
from deepport_triton.ahead.trace import Made
from deepport_triton.launch import Launch


@dataclass(frozen=True)
class Job:
    """One function of Triton's, as one launch has it.

    Attributes:
        operator: the first that asks for it.
        label: its first type and the constants that the kernel chooses itself: `_rms_norm_rows bf16 weighted block=4096`.
        signature: of every parameter its type, `constexpr` for constants.
        constants: also those numbers that are 1, as Triton's own launcher has it.
        hints: by a parameter's place, what the compiler may assume of it: `D`, that 16 divides it; of AMD's tensors `S`, that
            they are smaller than 2 GiB, or `L`, that they are not.
    """

    operator: str
    label: str
    module: str
    function: str
    signature: dict[str, str]
    constants: dict[str, Any]
    hints: dict[int, str]
    warps: int
    stages: int

    @property
    def name(self) -> str:
        """`_rms_norm_rows *bf16 *fp32 *bf16 i32/16 fp32 weighted=True block=4096`: one word for each parameter."""
        words = (self._word(i, name, type) for i, (name, type) in enumerate(self.signature.items()))
        return " ".join((self.function, *words, f"warps={self.warps}", f"stages={self.stages}"))

    def _word(self, place: int, name: str, type: str) -> str:
        if type == "constexpr":
            return f"{name}={self.constants[name]}"
        hint = self.hints.get(place, "")
        if not type.startswith("*"):
            return f"{type}/16" if "D" in hint else type
        # Tensors begin where 16 divides their address, and few are of 2 GiB.
        return type + ("" if "D" in hint else "/1") + ("/large" if "L" in hint else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def jobs(launches: Iterable[Made], targets: Sequence[Target], brief: bool = False) -> list[tuple[Job, Target]]:
    """Every function with every way of calling it, once for each target; in brief, once for each label."""
    by_name = {target.name: target for target in targets}
    found: dict[tuple[str, str], tuple[Job, Target]] = {}
    for made in launches:
        target = by_name[made.architecture]
        job = job_of(made, target)
        found.setdefault((job.label if brief else job.name, target.name), (job, target))
    return list(found.values())


def job_of(made: Made, target: Target) -> Job:
    """What a target's compiler is given for a launch."""
    launch = made.launch
    signature, constants, hints = {}, dict(launch.constants), {}
    for place, (name, (type, hint)) in enumerate(_parameters(launch, target)):
        if type == "constexpr":
            constants[name] = hint
        elif hint:
            hints[place] = hint
        signature[name] = type
    signature |= dict.fromkeys(launch.constants, "constexpr")
    function = launch.kernel.fn
    named = {name: signature[name] for name in launch.kernel.arg_names}
    return Job(
        made.operator, _label(launch, named), function.__module__, function.__name__, named, constants, hints,
        launch.warps, launch.stages,
    )  # fmt: skip


def _label(launch: Launch, signature: dict[str, str]) -> str:
    first = next(iter(signature.values())).removeprefix("*")
    words = (n if v is True else f"{n}={v}" for n, v in launch.constants.items() if v is not False)
    return " ".join((launch.kernel.fn.__name__, first, *words))


def _parameters(launch: Launch, target: Target) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Of each argument its type and what is assumed of it, by the rules of Triton's own launcher."""
    from triton._C.libtriton import native_specialize_impl

    for name, value in zip(launch.kernel.arg_names, launch.arguments, strict=False):
        type, hint = native_specialize_impl(_compiler(target), value, False, True, True)
        large = target.compiler == "hip" and isinstance(value, Tensor) and "S" not in hint
        yield name, (type, f"{hint}L" if large else hint)


@cache
def _compiler(target: Target) -> Any:
    from triton.backends.compiler import BaseBackend, GPUTarget
    from triton.compiler.compiler import make_backend

    if target.compiler == "npu":  # its compiler is not in this process, and has no rules of its own
        return BaseBackend
    return type(make_backend(GPUTarget(target.compiler, target.architecture, target.threads)))
