"""What a GPU's limits are probed by; probed here on the CPU, for there is no GPU."""

from __future__ import annotations

import pytest
import torch

from deepport.bench.limits import Limits, Need
from deepport.bench.peak import MEMORY, torch_peaks
from deepport.bench.timing import Stopwatch
from deepport.runtime import HostRuntime
from deepport_cuda import CudaBackend
from deepport_rocm import RocmBackend
from deepport_triton import peaks


@pytest.mark.parametrize("backend", [CudaBackend(), RocmBackend()])
def test_a_gpu_is_asked_for_every_dtype(backend: CudaBackend | RocmBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    found = {p.name: p for p in backend.peaks(1 << 30)}
    assert {"gemm float32", "gemm float16", "gemm bfloat16", MEMORY} <= found.keys()
    assert all(p.by == "torch" for p in found.values())


def test_probes_do_what_they_say() -> None:
    """The same peaks on the CPU, small: a bound of each kind comes from its own probe."""
    found = torch_peaks(torch.device("cpu"), 1 << 20, peaks._DTYPES, 64)
    limits = Limits(found, Stopwatch(HostRuntime()))
    for dtype in ("float32", "float16", "bfloat16"):
        bound = limits.bound(Need(1e12, 1.0, dtype, cold=True))
        assert bound is not None and bound.limit == f"gemm {dtype}"
        assert limits.rate(bound.limit) > 0
    assert found[-1].start()() == 2.0 * 64**3
