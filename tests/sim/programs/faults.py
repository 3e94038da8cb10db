"""Faults planted in a copy of the code that every backend runs on: prints for each what the device found, and where.

`deepport/runtime.py` is the runtime of cuda, rocm, npu and sim; `deepport/table.py` fetches memory tables on any of them; the
model knows no device. What `deepport_triton` does on the host is cuda's and rocm's: it runs here on the device, each launch as
one piece of work that writes zeros where nobody has written. One text is replaced at a time. Each copy runs in a fork of this
process, which has imported torch and nothing of ours; one ends by a bad address. npu's own kernels run around stand-ins for the
vendor's operators (`vendor.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Fault(NamedTuple):
    """`old` becomes `new` in a file, and `rule` is what the device calls it."""

    file: str
    old: str
    new: str
    rule: str


_FETCH = "rows = pinned.to(self.device, non_blocking=True)\n                copied.record()"
_SWAPPED = "copied.record()\n                rows = pinned.to(self.device, non_blocking=True)"
_TRITON = "deepport_triton/kernels/elementwise.py"
_NORM = "    y, width = torch.empty_like(x), x.shape[-1]\n    count = x.numel()"
_NPU_MOE, _NPU_DENSE = "deepport_npu/kernels/moe.py", "deepport_npu/kernels/dense.py"
_LAYERS = "        for index, (layer, memory) in enumerate("

FAULTS = {
    "nothing": Fault("deepport/table.py", "", "", ""),
    "no wait for the rows": Fault("deepport/table.py", "                copied.wait()\n", "", "stream-order"),
    "recorded before the copy": Fault("deepport/table.py", _FETCH, _SWAPPED, "stream-order"),
    "no record_stream": Fault(
        "deepport/table.py", "rows.record_stream(torch.accelerator.current_stream())", "pass", "record-stream"
    ),
    "one staging buffer": Fault(
        "deepport/table.py", "staged.pin_memory()", "_kept.setdefault(0, staged.pin_memory()).copy_(staged)", "staging"
    ),
    "staging not pinned": Fault("deepport/table.py", "staged.pin_memory()", "staged", "implicit-sync"),
    "an event that waits for nothing": Fault("deepport/runtime.py", "self._event.wait()", "pass", "stream-order"),
    "an event that records nothing": Fault("deepport/runtime.py", "self._event.record()", "pass", "stream-order"),
    "an item in a step": Fault(
        "deepport_model/transformer.py", _LAYERS, f"        batch.positions.max().item()\n{_LAYERS}", "implicit-sync"
    ),
    "a mask in a step": Fault(
        "deepport_model/transformer.py", _LAYERS, f"        streams[batch.positions >= 0]\n{_LAYERS}", "implicit-sync"
    ),
    "a list in a step": Fault(
        "deepport_model/transformer.py", _LAYERS, f"        batch.cu_seqlens.tolist()\n{_LAYERS}", "host-copy"
    ),
    "slots left on the host": Fault(
        "deepport_model/cache.py", "slots, dtype=torch.int32, device=self.device", "slots, dtype=torch.int32", "mixed-devices"
    ),
    "state that nobody clears": Fault(
        "deepport_model/cache.py", "layer.convolution = torch.zeros(", "layer.convolution = torch.empty(", "uninitialised"
    ),
    "a device pointer for the host": Fault(
        "deepport_sim/kernels.py", "lambda t: work.view(t) if t.device.type == device.NAME else t", "lambda t: t", "host-access"
    ),
    "an item before a launch": Fault(_TRITON, _NORM, f"    x.max().item()\n{_NORM}", "implicit-sync"),
    "a host pointer for a launch": Fault(_TRITON, _NORM, _NORM.replace("(x)", "(x, device='cpu')"), "mixed-devices"),
    "a copy to the host before a launch": Fault(_TRITON, _NORM, f"    x.cpu()\n{_NORM}", "host-copy"),
    "an item for the vendor": Fault(
        _NPU_MOE, "    offsets = torch.cat(", "    counts.sum().item()\n    offsets = torch.cat(", "implicit-sync"
    ),
    "a list for the vendor": Fault(_NPU_MOE, "group_list=ends,", "group_list=ends.tolist(),", "host-copy"),
    "a scale on the host for the vendor": Fault(
        _NPU_DENSE, "torch.ones(w.shape[0], dtype=x.dtype, device=x.device)", "torch.ones(w.shape[0])", "mixed-devices"
    ),
    "rope inputs that nobody wrote": Fault(
        "deepport_npu/kernels/attention.py", "query_rope=q.new_zeros(", "query_rope=q.new_empty(", "uninitialised"
    ),
}  # fmt: skip


POISON = -3
"""What the device fills new memory with, as 16 bits (`poison.cpp`)."""

PACKAGES = ("deepport", "deepport_model", "deepport_npu", "deepport_sim", "deepport_triton")


def copied(folder: Path) -> None:
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def plant(folder: Path, fault: Fault) -> str:
    """Change the file; its text as it was."""
    file = folder / fault.file
    text = file.read_text()
    assert not fault.old or text.count(fault.old) == 1, f"{fault.file} has changed: {fault.old!r}"
    changed = text.replace(fault.old, fault.new) if fault.old else text
    file.write_text(changed.replace("\nPlacement =", "\n_kept: dict[int, Tensor] = {}\nPlacement =", 1))
    return text


def launched() -> None:
    """A prompt and a step of decoding by the host's part of the Triton kernels."""
    from deepport import backend
    from deepport.paper import OnPaper
    from deepport.policy import Session
    from deepport_model import load
    from deepport_sim import device
    from deepport_triton import launch
    from deepport_triton.kernels import KERNELS

    class OnTheDevice(OnPaper):
        def __init__(self) -> None:
            self.name, self.device_type, self.basis = "triton", device.NAME, "launches"
            self.kernels = backend.accepted("triton", KERNELS)

    class Launches(list[launch.Launch]):
        def append(self, made: launch.Launch) -> None:
            name, tensors = made.kernel.__name__, [a for a in made.arguments if isinstance(a, torch.Tensor)]
            work = device.native().Work(name, [(t, "argument", True) for t in tensors], False)
            for view in (work.view(t) for t in tensors if t.element_size() > 1):
                if (view.view(torch.int16) == POISON).any():
                    view.zero_()
            work.done()
            super().append(made)

    transformer = load("tiny", "sim", "bfloat16").transformer
    cache, noted = transformer.cache(2, 24, 16), Launches()
    with launch.taken(noted.append), Session(backend=OnTheDevice()), device.under(host_copy="error"):
        for new in ({0: [1] * 16}, {0: [2], 1: [3]}):
            transformer.step(cache.append(new), cache, "last")
    assert len(noted) > 100, f"{len(noted)} launches"


def computed() -> None:
    """Prompts and steps of decoding, with the model's memory on the device, then on the host."""
    from model import inference, placed

    for placement in ("device", "host"):
        for _ in inference(placed("float32", placement).to("sim"), strict=placement == "device"):  # type: ignore[arg-type]
            pass


def wrapped() -> None:
    """Calls of npu's kernels."""
    import vendor

    vendor.wrapped()


PARTS = {"deepport_triton": launched, "deepport_npu": wrapped}
"""By the package whose faults a part meets; all others are met by `computed`."""


def found_first(fault: Fault) -> dict[str, Any]:
    """Of the part of a run that the fault is in; of all of them where there is none."""
    from deepport import backend
    from deepport_sim import device

    backend.start("sim")
    try:
        with torch.inference_mode():
            part = PARTS.get(fault.file.partition("/")[0], computed)
            for run in (part,) if fault.rule else (computed, *PARTS.values()):
                run()
        torch.sim.synchronize()  # type: ignore[attr-defined]
    except RuntimeError as error:
        return {"raised": str(error).splitlines()[0], "rules": [f.rule for f in device.findings()]}
    return {"raised": None, "rules": [f.rule for f in device.findings()]}


def attempt(folder: Path, fault: Fault) -> dict[str, Any]:
    told, said = folder / "told", folder / "said"
    told.unlink(missing_ok=True)
    if not (child := os.fork()):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.dont_write_bytecode = True
        sys.path[:0] = [str(folder), str(Path(__file__).parent)]
        sys.meta_path.insert(0, PathFinder)  # an editable installation's finder would come before the path
        assert all(str(spec.origin).startswith(str(folder)) for spec in map(find_spec, PACKAGES) if spec), (
            "the copy is not in use"
        )
        told.write_text(json.dumps(found_first(fault)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if told.exists():
        found: dict[str, Any] = json.loads(told.read_text())
        return found
    return {"ended": os.waitstatus_to_exitcode(status), "raised": said.read_text()[-4000:], "rules": []}


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as name:
        copied(folder := Path(name))
        for what, fault in FAULTS.items():
            before = plant(folder, fault)
            found[what] = attempt(folder, fault)
            (folder / fault.file).write_text(before)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
