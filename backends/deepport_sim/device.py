"""`torch.sim`: the device for Python, as `torch.cuda` is for CUDA; and its rules: policies, findings, what it lacks."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch.utils.backend_registration import generate_methods_for_privateuse1_backend, rename_privateuse1_backend

import deepport
from deepport.errors import BadInput

NAME = "sim"

_TORCH = Path(torch.__file__).parent
_DEEPPORT = Path(deepport.__file__).parent
_CARRIES = (
    "backend.py",
    "composed.py",
    "gradient.py",
    "graph.py",
    "op.py",
    "policy.py",
    "record.py",
    "runtime.py",
    "server.py",
)
"""Files of deepport that carry calls on: a finding's place is where somebody asked for what they carry."""
_REFERENCES = ("formats.py", "ops/", "ragged.py", "conformance/")
"""References, and who judges by them: they may wait when they like (rule `reference-sync`)."""

_native: Any = None


class Finding(NamedTuple):
    """A broken rule: by which operator, at which line of Python, and what happened."""

    rule: str
    op: str
    site: str
    text: str


def register(library: Path) -> None:
    """Give torch the device, once a process."""
    global _native
    if _native is not None:
        return
    _native = _load(library)
    machinery = [_TORCH, Path(__file__).parent, *(_DEEPPORT / name for name in _CARRIES)]
    references = [f"{_DEEPPORT}/{name}" for name in _REFERENCES] + [f"{_TORCH}/_tensor_str.py"]  # who prints may wait
    _native.set_paths([str(p) for p in machinery], references)
    rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _Module(f"torch.{NAME}"))
    generate_methods_for_privateuse1_backend()
    if not faulthandler.is_enabled():
        faulthandler.enable()  # it says which line of Python touched what the host may not
    _native.set_trap()


def _load(library: Path) -> ModuleType:
    spec = spec_from_file_location(
        "deepport_sim._sim", library, loader=ExtensionFileLoader("deepport_sim._sim", str(library))
    )
    assert spec is not None and spec.loader is not None  # a loader is given
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def native() -> Any:
    """The native part; RuntimeError before the backend is started."""
    if _native is None:
        raise RuntimeError("the simulated accelerator is not started: deepport.backend.start('sim')")
    return _native


def configure(memory: int, policies: Mapping[str, str]) -> None:
    """Bytes of each device, and policies by rule. BadInput where no rule is called so."""
    native().set_capacity(memory)
    for rule, policy in policies.items():
        set_policy(rule, policy)


def policies() -> dict[str, str]:
    """Each rule's policy: allow, warn or error."""
    return dict(native().policies())


def set_policy(rule: str, policy: str) -> None:
    if rule not in policies():
        raise BadInput(f"no rule is called {rule!r}; there are: {', '.join(policies())}")
    native().set_policy(rule, policy)


@contextmanager
def under(**policy: str) -> Iterator[None]:
    """Other policies inside: `with under(host_copy="error"):`. What happened inside is judged by them, to the last copy."""
    before = policies()
    try:
        for rule, wanted in policy.items():
            set_policy(rule.replace("_", "-"), wanted)
        yield
        torch.accelerator.synchronize()
    finally:
        for rule, wanted in before.items():
            set_policy(rule, wanted)


def findings() -> list[Finding]:
    """What was found since the process began, or since they were forgotten; what is allowed is no finding."""
    return [Finding(*found) for found in native().findings()]


def forget() -> None:
    """Forget all findings, also one that waits to be raised."""
    native().forget_findings()


def operators() -> dict[str, int]:
    """How often torch's operators were asked for on the device since the process began: what a real one needs for the same."""
    return dict(native().operators())


def lack(operators: Sequence[str]) -> None:
    """Have no kernels for these, as `aten::sort`: the rule `fallback` then says what happens."""
    native().set_lacking(list(operators))


class _Module(ModuleType):
    """What torch, and `deepport.runtime.TorchRuntime`, look for under `torch.sim`."""

    Stream = staticmethod(lambda device=None, **more: torch.Stream(_place(device), **more))
    Event = staticmethod(lambda enable_timing=False, **more: torch.Event(NAME, enable_timing=enable_timing))

    def init(self) -> None:
        """It is ready when it is registered."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return int(native().device_count())

    def current_device(self) -> int:
        return int(native().current_device())

    def set_device(self, device: Any) -> None:
        native().set_device(_place(device).index)

    def synchronize(self, device: Any = None) -> None:
        torch.accelerator.synchronize(_place(device))

    def current_stream(self, device: Any = None) -> torch.Stream:
        return torch.accelerator.current_stream(_place(device))

    def stream(self, stream: torch.Stream) -> torch.Stream:
        """A stream is a context by itself."""
        return stream

    def manual_seed_all(self, seed: int) -> None:
        for device in range(self.device_count()):
            native().default_generator(device).manual_seed(seed)

    manual_seed = manual_seed_all

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        state: torch.Tensor = native().default_generator(_place(device).index).get_state()
        return state

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        native().default_generator(_place(device).index).set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        free, total = torch.accelerator.get_memory_info(_place(device))
        return free, total

    def memory_allocated(self, device: Any = None) -> int:
        return int(torch.accelerator.memory_allocated(_place(device)))

    def max_memory_allocated(self, device: Any = None) -> int:
        return int(torch.accelerator.max_memory_allocated(_place(device)))

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        torch.accelerator.reset_peak_memory_stats(_place(device))


def _place(device: Any) -> torch.device:
    """A device with its number; the current one where none is given."""
    place = torch.device(NAME, device) if isinstance(device, int) else torch.device(device or NAME)
    return place if place.index is not None else torch.device(NAME, int(native().current_device()))
