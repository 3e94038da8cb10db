"""Discovery of backends, the plugins of third parties, and what is said of broken ones."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import deepport
from deepport import backend, ops
from deepport.backend import Listing
from deepport.errors import BackendBroken, BackendUnavailable, DeepportError
from deepport.policy import Session
from deepport.record import Record

Distribution = Callable[..., Path]

ACME = """
from deepport.backend import Device, Probe

calls = []

class Acme:
    name, device_type, simulates = {name!r}, {device_type!r}, {simulates!r}

    def probe(self):
        return Probe((Device("Acme One"),), {{"acme": "7"}})

    def start(self):
        from deepport.runtime import HostRuntime
        return HostRuntime()

    def kernels(self):
        from torch import Tensor
        from deepport import ops
        from deepport.kernel import YES, Kernel, no

        def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
            calls.append(tuple(gate.shape))
            return ops.swiglu.reference(gate, up, limit)

        return {kernels}

backend = Acme()
"""


def acme(
    kernels: str = "[Kernel('swiglu', 'fused', swiglu)]",
    name: str = "acme",
    device_type: str = "cpu",
    simulates: str = "cuda",
) -> str:
    return ACME.format(kernels=kernels, name=name, device_type=device_type, simulates=simulates)


def listed(name: str) -> Listing:
    return next(b for b in deepport.backends() if b.name == name)


def isolated(script: str, *folders: Path) -> str:
    """What a script prints in a Python of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_in_tree_backends_are_listed_with_devices_or_a_reason() -> None:
    found = {b.name: b for b in deepport.backends()}
    assert {"cpu", "cuda", "npu", "rocm"} <= found.keys()
    assert found["cpu"].probe.devices[0].memory > 0
    for name in ("cuda", "npu", "rocm"):
        probe = found[name].probe
        assert found[name].package.startswith("deepport ")
        assert bool(probe.devices) != bool(probe.reason), name
        assert "\n" not in probe.reason and "; " in probe.reason + "; " * bool(probe.devices)


def test_listing_imports_neither_torch_nor_a_vendor() -> None:
    script = "import sys, deepport; deepport.backends(); print([m for m in ('torch', 'torch_npu') if m in sys.modules])"
    assert isolated(script).strip() == "[]"


THIRD_PARTY = """
import json, torch, deepport, deepport_acme
from deepport import backend, ops
x = torch.randn(3, 4)
row = next(b for b in deepport.backends() if b.name == "acme")
ops.swiglu(x, x, None)
with deepport.Session():
    ops.swiglu(x, x, None)
unasked = len(deepport_acme.calls)
with deepport.Session(backend="acme"):
    same = bool(torch.equal(ops.swiglu(x, x, None), ops.swiglu.reference(x, x, None)))
print(json.dumps([row.package, row.device_type, row.simulates, row.probe.versions, unasked, deepport_acme.calls, same,
                  backend.choose("auto")]))
"""


def test_a_third_party_package_serves_by_name_only(distribution: Distribution) -> None:
    """A distribution in a folder of its own, in a new process; nothing of deepport knows of it."""
    package, device_type, simulates, versions, unasked, calls, same, automatic = json.loads(
        isolated(THIRD_PARTY, distribution("acme", acme()))
    )
    assert (package, device_type, simulates, versions) == ("deepport_acme 1.0", "cpu", "cuda", {"acme": "7"})
    assert unasked == 0, "a simulation was chosen automatically"
    assert calls == [[3, 4]] and same
    assert automatic != "acme"


def test_a_simulation_of_an_accelerator_is_never_automatic(install: Distribution) -> None:
    install("acme", acme(device_type="acme"))
    assert listed("acme").probe.devices
    assert backend.serving("acme") is None
    assert backend.choose("auto") != "acme"
    assert backend.choose("acme:1") == "acme"


def test_an_accelerator_is_automatic(install: Distribution) -> None:
    install("aaa", acme(name="aaa", device_type="aaa", simulates=""))
    assert backend.choose("auto") == "aaa"
    started = backend.serving("aaa")
    assert started is not None and started.name == "aaa"


def test_two_backends_for_one_device_type_are_not_guessed_between(install: Distribution) -> None:
    install("acme", acme(simulates=""))
    text = "the backends acme, cpu all serve cpu tensors; name one: Session(backend='acme')"
    with pytest.raises(BackendUnavailable) as caught:
        ops.swiglu(torch.ones(1, 2), torch.ones(1, 2), None)
    assert str(caught.value) == text
    record = Record()
    with Session(backend="acme", record=record):
        ops.swiglu(torch.ones(1, 2), torch.ones(1, 2), None)
    assert [r.implementation for r in record.rows] == ["acme/fused"]


NOT_LOADED = {
    "import": (
        "import acme_sdk",
        BackendUnavailable,
        "the acme backend is installed but cannot be imported: No module named 'acme_sdk'",
    ),
    "raises": (
        "raise OSError('no license')",
        BackendBroken,
        "the acme backend cannot be loaded: OSError: no license",
    ),
    "nothing": (
        "",
        BackendBroken,
        "the acme backend cannot be loaded: AttributeError: module 'deepport_acme' has no attribute 'backend'",
    ),
    "name": (
        acme(name="amce"),
        BackendBroken,
        "the entry point 'acme' of deepport.backends publishes a backend that calls itself 'amce'",
    ),
    "protocol": (
        "class backend:\n    name = 'acme'\n    device_type = 'acme'\n    def start(self): ...",
        BackendBroken,
        "what the entry point 'acme' of deepport.backends publishes has no simulates, probe, kernels",
    ),
}


@pytest.mark.parametrize(("source", "kind", "text"), NOT_LOADED.values(), ids=NOT_LOADED)
def test_a_backend_that_cannot_be_loaded_is_one_line(
    install: Distribution, source: str, kind: type[DeepportError], text: str
) -> None:
    others = [b.name for b in deepport.backends()]
    install("acme", source)
    assert listed("acme").probe.reason == text
    assert listed("acme").package == "deepport_acme 1.0"
    assert [b.name for b in deepport.backends() if b.name != "acme"] == others
    assert listed("cpu").probe.devices
    with pytest.raises(kind) as caught, Session(backend="acme"):
        ops.swiglu(torch.ones(1, 2), torch.ones(1, 2), None)
    assert str(caught.value) == text


def test_a_probe_that_raises_is_one_line(install: Distribution) -> None:
    install("acme", acme().replace("return Probe(", "return 1 / 0 #"))
    assert listed("acme").probe.reason == "the acme backend's probe failed: ZeroDivisionError: division by zero"
    assert listed("cpu").probe.devices


def test_two_packages_of_one_name_are_refused(install: Distribution) -> None:
    install("cpu", acme(name="cpu"), module="deepport_impostor")
    reason = listed("cpu").probe.reason
    assert reason.startswith("several packages publish a backend called 'cpu': ")
    assert "deepport_impostor 1.0" in reason and reason.endswith("; uninstall all but one")


def test_an_unknown_backend_is_answered_with_the_installed_ones() -> None:
    with pytest.raises(
        BackendUnavailable, match=r"^no backend is called 'npv'; installed: cpu, cuda, interpreter, npu, rocm"
    ):
        backend.start("npv")
    assert BackendUnavailable.exit_code == 3


BROKEN_KERNELS = {
    "schema": (
        "[Kernel('rms_norm', 'fused', swiglu)]",
        "rms_norm: the acme kernel 'fused' is (Tensor gate, Tensor up, float? limit=None) -> Tensor but the operator is "
        f"{ops.rms_norm.schema}",
    ),
    "unknown": (
        "[Kernel('swigluu', 'fused', swiglu)]",
        "no operator is called 'swigluu', for which acme has the kernel 'fused'",
    ),
    "duplicate": (
        "[Kernel('swiglu', 'fused', swiglu), Kernel('swiglu', 'fused', swiglu)]",
        "swiglu: the acme backend already has a kernel called 'fused'",
    ),
    "mutation": (
        "[Kernel('swiglu', 'fused', swiglu, mutates=('up',))]",
        "swiglu: the acme kernel 'fused' declares that it writes to up but the operator writes to nothing",
    ),
    "undeclared mutation": (
        "[Kernel('write_pages_', 'fused', ops.write_pages_.reference)]",
        "write_pages_: the acme kernel 'fused' declares that it writes to nothing but the operator writes to pages",
    ),
}


@pytest.mark.parametrize(("kernels", "text"), BROKEN_KERNELS.values(), ids=BROKEN_KERNELS)
def test_a_wrong_kernel_is_refused_before_any_call(install: Distribution, kernels: str, text: str) -> None:
    install("acme", acme(kernels))
    with pytest.raises(BackendBroken) as caught:
        backend.start("acme")
    assert str(caught.value) == text
    assert listed("cpu").probe.devices


def test_a_kernel_without_annotations_is_named(install: Distribution) -> None:
    install("acme", acme("[Kernel('swiglu', 'bare', lambda gate, up, limit=None: gate)]"))
    with pytest.raises(BackendBroken, match=r"^swiglu: the acme kernel 'bare' has no schema: .*type annotation"):
        backend.start("acme")


def test_a_kernel_whose_supports_raises_is_a_bug_and_no_refusal(install: Distribution) -> None:
    install("acme", acme("[Kernel('swiglu', 'bad', swiglu, lambda s: s['gait']), Kernel('swiglu', 'good', swiglu)]"))
    with pytest.raises(BackendBroken) as caught, Session(backend="acme"):
        ops.swiglu(torch.ones(1, 2), torch.ones(1, 2), None)
    assert str(caught.value) == "swiglu: acme/bad: supports() raised KeyError: 'gait'"


def test_the_first_kernel_that_says_yes_serves(install: Distribution) -> None:
    third = "Kernel('swiglu', 'third', swiglu, lambda s: 1 / 0)"
    install(
        "acme",
        acme(
            f"[Kernel('swiglu', 'wide', swiglu, lambda s: no('shape', 'rows')), Kernel('swiglu', 'any', swiglu), {third}]"
        ),
    )
    record = Record()
    with Session(backend="acme", record=record):
        ops.swiglu(torch.ones(1, 2), torch.ones(1, 2), None)
    assert [(r.implementation, r.refusals) for r in record.rows] == [
        ("acme/any", (("acme/wide", "shape: rows"),)),
    ]


def test_the_same_kernel_name_may_serve_two_operators(install: Distribution) -> None:
    install("acme", acme("[Kernel('swiglu', 'x', swiglu), Kernel('linear', 'x', ops.linear.reference)]"))
    assert backend.start("acme").kernels.keys() == {"swiglu", "linear"}
