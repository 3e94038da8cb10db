"""The probes of cuda, rocm and npu against simulated machines: nothing here has run on such a device.

The vendors' libraries are simulated by one shared library, built from C so that the calls cross the real ABI, and the
kernel drivers' files by folders.
"""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from deepport import probing
from deepport.backend import Device
from deepport.errors import BackendUnavailable
from deepport.probing import Cause, TorchBuild, field, printable, reason, torch_build_in
from deepport_cuda import CudaBackend, driver
from deepport_npu import NpuBackend, cann
from deepport_rocm import RocmBackend, topology

LIBRARY = r"""
#include <stdlib.h>
#include <string.h>
static int number(const char *name, int otherwise) { const char *v = getenv(name); return v ? atoi(v) : otherwise; }
int cuInit(unsigned flags) { return flags ? 1 : number("SIMULATED_INIT", 0); }
int cuDriverGetVersion(int *v) { *v = number("SIMULATED_CUDA", 13000); return 0; }
int cuDeviceGetCount(int *n) { *n = number("SIMULATED_COUNT", 2); return 0; }
int cuDeviceGet(int *handle, int index) { *handle = index + 40; return index < 0; }
int cuDeviceGetName(char *name, int size, int handle) {
    if (getenv("SIMULATED_HOSTILE")) memset(name, '\x1b', size);  /* escape characters, and no end */
    else strncpy(name, handle == 40 ? "Simulated A" : "Simulated B", size);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int handle) { *bytes = (size_t)(handle == 40 ? 80 : 141) << 30; return 0; }
int cuDeviceGetAttribute(int *v, int attribute, int handle) {
    *v = attribute == 75 ? (handle == 40 ? 8 : 10) : attribute == 76 ? 0 : -1;
    return 0;
}
int cuGetErrorString(int code, const char **text) { *text = code == 100 ? "no CUDA-capable device" : 0; return 0; }
const char *aclrtGetSocName(void) { return getenv("SIMULATED_SOC"); }
"""
SIMULATOR = (
    LIBRARY
    + r"""
const char *deepport_cann_simulator = "a simulator 1";
int aclrtGetDeviceCount(unsigned *n) { *n = number("SIMULATED_COUNT", 2); return 0; }
int aclsysGetVersionStr(const char *package, char *version) { strcpy(version, "9.2.0"); return 0; }
"""
)

CUDA = TorchBuild("2.13.0+cu130", "13.0", "", Path())
HIP = TorchBuild("2.13.0+rocm7.2", "", "7.2.1", Path())
CPU = TorchBuild("2.13.0+cpu", "", "", Path())


def absent(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file: No such file or directory")


def loader(folder: Path, source: str) -> Callable[[str], Any]:
    """A loader that finds a library made of this source under every name."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the simulated driver with")
    (folder / "driver.c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", folder / "driver.so", folder / "driver.c"], check=True)
    return lambda name: ctypes.CDLL(str(folder / "driver.so"))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A loader that finds the simulated library under every name."""
    return loader(tmp_path_factory.mktemp("driver"), LIBRARY)


# CUDA


def test_simulated_cuda_lists_its_devices(simulated: Callable[[str], Any]) -> None:
    probe = CudaBackend(lambda: CUDA, simulated).probe()
    assert probe.reason == ""
    assert probe.versions == {"torch": "2.13.0+cu130", "triton": version("triton"), "driver": "CUDA 13.0"}
    assert probe.devices == (
        Device("Simulated A", "sm_80", 80 << 30, ("float32", "int8", "bfloat16")),
        Device("Simulated B", "sm_100", 141 << 30, ("float32", "int8", "bfloat16", "fp8_e4m3", "mxfp4")),
    )


NO_DRIVER = "no NVIDIA driver: libcuda.so.1 cannot be loaded"
CUDA_ABSENT = {
    "no torch": (None, f"torch is not installed; install a CUDA build of torch (also: {NO_DRIVER})"),
    "cpu torch": (
        CPU,
        "this torch (2.13.0+cpu) is built without CUDA; install a CUDA build of torch 2.13 (also: " + NO_DRIVER + ")",
    ),
    "hip torch": (
        HIP,
        "this torch (2.13.0+rocm7.2) is built for ROCm, which the rocm backend serves; install a CUDA build of torch 2.13 "
        f"(also: {NO_DRIVER})",
    ),
    "no driver": (CUDA, f"{NO_DRIVER}; install the driver of your NVIDIA GPU"),
}


@pytest.mark.parametrize(("build", "text"), CUDA_ABSENT.values(), ids=CUDA_ABSENT)
def test_simulated_cuda_absent(build: TorchBuild | None, text: str) -> None:
    probe = CudaBackend(lambda: build, absent).probe()
    assert (probe.devices, probe.reason) == ((), text)


CHECK = "; check CUDA_VISIBLE_DEVICES and `nvidia-smi`"
CUDA_REFUSES = {
    "no devices": ({"COUNT": "0"}, "the NVIDIA driver finds no GPU" + CHECK),
    "a negative count": ({"COUNT": "-3"}, "the NVIDIA driver finds no GPU" + CHECK),
    "an error": (
        {"INIT": "100"},
        "the NVIDIA driver finds no usable GPU: no CUDA-capable device (CUDA error 100)" + CHECK,
    ),
    "an error without a text": (
        {"INIT": "999"},
        "the NVIDIA driver finds no usable GPU: unknown error (CUDA error 999)" + CHECK,
    ),
    "too old": (
        {"CUDA": "12080"},
        "the NVIDIA driver supports CUDA 12.8 and this torch (2.13.0+cu130) is built for 13.0; "
        "update the driver, or install a torch built for CUDA 12",
    ),
}


@pytest.mark.parametrize(("setting", "text"), CUDA_REFUSES.values(), ids=CUDA_REFUSES)
def test_simulated_cuda_driver_refuses(
    simulated: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], text: str
) -> None:
    for name, value in setting.items():
        monkeypatch.setenv(f"SIMULATED_{name}", value)
    probe = CudaBackend(lambda: CUDA, simulated).probe()
    assert (probe.devices, probe.reason) == ((), text)


def test_simulated_cuda_driver_of_the_same_major_version_is_enough(
    simulated: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_CUDA", "12040")
    newer = TorchBuild("2.13.0+cu128", "12.8", "", Path())
    assert len(CudaBackend(lambda: newer, simulated).probe().devices) == 2


def test_simulated_cuda_does_not_serve_where_torch_cannot(simulated: Callable[[str], Any]) -> None:
    for build in (None, CPU, HIP):
        assert CudaBackend(lambda build=build: build, simulated).probe().devices == ()  # type: ignore[misc]


def test_simulated_cuda_hostile_names_cannot_disturb_a_terminal(
    simulated: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATED_HOSTILE", "1")
    assert CudaBackend(lambda: CUDA, simulated).probe().devices[0].name == "?" * 200


def test_a_library_that_is_not_a_driver_is_a_reason(simulated: Callable[[str], Any]) -> None:
    text = CudaBackend(lambda: CUDA, lambda name: ctypes.CDLL(None)).probe().reason
    assert text.startswith("the NVIDIA driver finds no usable GPU: libcuda.so.1 lacks a function: ")
    assert "cuInit" in text and "\n" not in text


@pytest.mark.parametrize(
    ("capability", "newest"),
    [((7, 0), "float32"), ((7, 5), "int8"), ((8, 6), "bfloat16"), ((9, 0), "fp8_e4m3"), ((12, 0), "mxfp4")],
)
def test_cuda_formats(capability: tuple[int, int], newest: str) -> None:
    assert driver.formats(*capability)[-1] == newest


# ROCm


def node(folder: Path, number: int, target: str, *banks: tuple[int, str], name: str = "") -> None:
    """A node of the kernel's topology: a GPU's target version and its memory banks `(heap type, bytes)`."""
    at = folder / str(number)
    at.mkdir(parents=True)
    (at / "name").write_text(name + "\n")
    (at / "properties").write_text(f"cpu_cores_count 0\nsimd_count 304\ngfx_target_version {target}\n")
    for i, (heap, size) in enumerate(banks):
        (at / "mem_banks" / str(i)).mkdir(parents=True)
        (at / "mem_banks" / str(i) / "properties").write_text(f"heap_type {heap}\nsize_in_bytes {size}\nflags 0\n")


@pytest.fixture
def kfd(tmp_path: Path) -> Path:
    (tmp_path / "kfd").touch()
    return tmp_path / "kfd"


def test_simulated_rocm_lists_its_devices_in_order(tmp_path: Path, kfd: Path) -> None:
    nodes = tmp_path / "nodes"
    node(nodes, 0, "0", (0, str(64 << 30)), name="a processor")
    node(nodes, 10, "90500", (1, str(288 << 30)))
    node(nodes, 2, "90402", (1, str(96 << 30)), (2, str(96 << 30)), (0, str(1 << 30)), name="aqua_vanjaram")
    probe = RocmBackend(lambda: HIP, nodes, kfd).probe()
    assert probe.reason == ""
    assert probe.versions == {"torch": "2.13.0+rocm7.2", "hip": "7.2.1", "triton": version("triton")}
    assert probe.devices == (
        Device("aqua_vanjaram", "gfx942", 192 << 30, ("float32", "bfloat16", "int8", "fp8_e4m3fnuz")),
        Device("gfx950", "gfx950", 288 << 30, ("float32", "bfloat16", "int8", "fp8_e4m3", "mxfp4")),
    )


def test_simulated_rocm_hostile_files(tmp_path: Path, kfd: Path) -> None:
    nodes = tmp_path / "nodes"
    node(nodes, 1, "-90402")
    node(nodes, 2, "9" * 400)
    node(nodes, 3, "ninety")
    node(nodes, 4, "90010", (1, "²"), (1, "-5"), (1, "7 7"), name="\x1b[2J")
    (nodes / "5").mkdir()
    (nodes / "6").mkdir()
    (nodes / "6" / "properties").write_bytes(b"\xff\x00gfx_target_version\xff 90402\n" * 5000)
    (nodes / "x").mkdir()
    probe = RocmBackend(lambda: HIP, nodes, kfd).probe()
    assert probe.devices == (Device("?[2J", "gfx90a", 0, ("float32", "bfloat16", "int8")),)


def test_simulated_rocm_absent(tmp_path: Path, kfd: Path) -> None:
    nodes, missing = tmp_path / "nodes", tmp_path / "missing"
    no_driver = f"no AMD driver: {missing} does not exist"
    for build, device, text in (
        (None, kfd, "torch is not installed; install a ROCm build of torch"),
        (CPU, kfd, "this torch (2.13.0+cpu) is built without ROCm; install a ROCm build of torch 2.13"),
        (
            CUDA,
            missing,
            "this torch (2.13.0+cu130) is built without ROCm; install a ROCm build of torch 2.13 (also: "
            + no_driver
            + ")",
        ),
        (
            HIP,
            missing,
            f"{no_driver}; install the amdgpu driver, or start the container with --device /dev/kfd --device /dev/dri",
        ),
        (HIP, kfd, f"the amdgpu driver lists no GPU in {nodes}; check `rocminfo`"),
    ):
        probe = RocmBackend(lambda build=build: build, nodes, device).probe()  # type: ignore[misc]
        assert (probe.devices, probe.reason) == ((), text)


def test_simulated_rocm_without_permission(tmp_path: Path, kfd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open everything
    text = RocmBackend(lambda: HIP, tmp_path, kfd).probe().reason
    assert text == f"{kfd} may not be opened; add your user to the groups render and video"


@pytest.mark.parametrize(
    ("architecture", "float8"),
    [("gfx90a", ""), ("gfx942", "fp8_e4m3fnuz"), ("gfx950", "fp8_e4m3"), ("gfx1100", ""), ("gfx1201", "fp8_e4m3")],
)
def test_rocm_formats(architecture: str, float8: str) -> None:
    assert "".join(f for f in topology.formats(architecture) if f.startswith("fp8")) == float8


def test_a_torch_serves_cuda_or_rocm_but_never_both(simulated: Callable[[str], Any], tmp_path: Path, kfd: Path) -> None:
    """Both call their tensors `cuda`, so on a machine with both kinds of card the build decides."""
    node(tmp_path / "nodes", 1, "90402")
    for build, expected in ((CUDA, ["cuda"]), (HIP, ["rocm"]), (CPU, [])):
        both = (
            CudaBackend(lambda build=build: build, simulated),  # type: ignore[misc]
            RocmBackend(lambda build=build: build, tmp_path / "nodes", kfd),  # type: ignore[misc]
        )
        assert [b.name for b in both if b.probe().devices] == expected
        assert {b.device_type for b in both} == {"cuda"}


# Ascend


@pytest.fixture
def ascend(tmp_path: Path) -> Path:
    """`/usr/local/Ascend` with CANN and driver, and beside it `dev` with two NPUs."""
    at = tmp_path / "Ascend"
    arch = at / "cann" / f"{platform.machine()}-linux"
    for folder in (arch, at / "cann" / "lib64", at / "driver", tmp_path / "dev"):
        folder.mkdir(parents=True)
    (arch / "ascend_toolkit_install.info").write_text(
        "package_name=Ascend-cann-toolkit\nversion=8.5.0\ninnerversion=V100\n"
    )
    (at / "cann" / "lib64" / "libascendcl.so").touch()
    (at / "driver" / "version.info").write_text("Version=25.5.0\nascendhal_version=7.35.23\n")
    for name in ("davinci0", "davinci1", "davinci_manager", "davinci", "sda"):
        (tmp_path / "dev" / name).touch()
    return at


def npu(ascend: Path, load: Callable[[str], Any], torch_npu: str = "2.13.0", dev: str = "dev") -> NpuBackend:
    build = TorchBuild("2.13.0+cpu", "", "", Path())
    return NpuBackend(lambda: build, lambda: torch_npu, load, cann.roots({}, ascend), ascend, ascend.parent / dev)


@pytest.mark.parametrize(
    ("soc", "name", "architecture", "formats"),
    [
        ("Ascend910B2", "Ascend910B2", "A2", ("float32", "bfloat16", "int8")),
        ("Ascend910_9391", "Ascend910_9391", "A3", ("float32", "bfloat16", "int8")),
        ("Ascend910_9589", "Ascend910_9589", "A5", ("float32", "bfloat16", "int8", "fp8_e4m3", "mxfp4")),
        ("Ascend950PR_9599", "Ascend950PR_9599", "A5", ("float32", "bfloat16", "int8", "fp8_e4m3", "mxfp4")),
        ("Ascend310P3", "Ascend310P3", "", ("float32",)),
        ("\x1b[1m\n", "?[1m", "", ("float32",)),
        (None, "Ascend NPU", "", ("float32",)),
    ],
)
def test_simulated_npu_lists_its_devices(
    simulated: Callable[[str], Any], ascend: Path, monkeypatch: pytest.MonkeyPatch,
    soc: str | None, name: str, architecture: str, formats: tuple[str, ...],
) -> None:  # fmt: skip
    if soc is not None:
        monkeypatch.setenv("SIMULATED_SOC", soc)
    probe = npu(ascend, simulated).probe()
    assert probe.reason == ""
    assert probe.versions == {"torch": "2.13.0+cpu", "torch_npu": "2.13.0", "cann": "8.5.0", "driver": "25.5.0"}
    assert probe.devices == (Device(name, architecture, 0, formats),) * 2
    assert probe.simulator == ""  # this library stands for CANN's own


@pytest.mark.parametrize("dev", ["dev", "empty"])  # device files have no say: the simulator has no driver
def test_a_simulator_of_cann_is_seen_and_said(
    tmp_path: Path, ascend: Path, monkeypatch: pytest.MonkeyPatch, dev: str
) -> None:
    monkeypatch.setenv("SIMULATED_SOC", "Ascend910B2")
    monkeypatch.setenv("SIMULATED_COUNT", "3")
    probe = npu(ascend, loader(tmp_path, SIMULATOR), dev=dev).probe()
    assert probe.reason == "" and probe.simulator == "a simulator 1"
    assert probe.versions["cann"] == "9.2.0"  # its own, not that of the CANN which happens to be installed
    assert probe.devices == (Device("Ascend910B2, simulated", "A2", 0, ("float32", "bfloat16", "int8")),) * 3


@pytest.mark.parametrize(("code", "found"), [(0, "9.3.0"), (7, None)])
def test_cann_that_no_file_describes_says_its_version_itself(
    tmp_path: Path, ascend: Path, code: int, found: str | None
) -> None:
    for info in ascend.rglob("ascend_toolkit_install.info"):
        info.unlink()
    asked = f'int aclsysGetVersionStr(const char *of, char *version) {{ strcpy(version, "9.3.0"); return {code}; }}'
    assert npu(ascend, loader(tmp_path, LIBRARY + asked)).probe().versions.get("cann") == found


def test_a_simulator_without_devices_has_none(tmp_path: Path, ascend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMULATED_COUNT", "0")
    probe = npu(ascend, loader(tmp_path, SIMULATOR)).probe()
    assert probe.devices == () and probe.reason.startswith("no Ascend device")


def test_simulated_npu_absent(simulated: Callable[[str], Any], ascend: Path) -> None:
    nowhere = ascend.parent / "nowhere"
    no_device = f"no Ascend device: {ascend.parent}/empty/davinci0 does not exist"
    not_installed = "CANN is not installed: libascendcl.so cannot be loaded"
    for backend, text in (
        (
            npu(nowhere, absent, "", "empty"),
            "torch_npu is not installed; pip install 'deepport[npu]' (also: " + not_installed + f"; {no_device})",
        ),
        (
            npu(nowhere, absent),
            f"{not_installed}; install the CANN toolkit from hiascend.com and run `source set_env.sh`",
        ),
        (
            npu(ascend, absent),
            f"CANN in {ascend}/cann cannot be loaded: libascendcl.so: cannot open shared object file: No such file or "
            f"directory; run `source {ascend}/cann/set_env.sh` first",
        ),
        (
            npu(ascend, simulated, dev="empty"),
            f"{no_device}; install the NPU driver, or pass the device into the container",
        ),
        (
            npu(ascend, simulated, "2.9.0.post1"),
            "torch_npu 2.9.0.post1 does not fit torch 2.13.0+cpu; pip install 'torch-npu==2.13.*'",
        ),
    ):
        probe = backend.probe()
        assert (probe.devices, probe.reason) == ((), text)


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b"", ""),
        (b"version=", ""),
        (b"version=8.5.0", "8.5.0"),
        (b"Version: 8.3.RC1\r\nversion=1\n", "8.3.RC1"),
        (b"inner_version=V1\nversion=\xff\xfe\n", ""),
        (b"version=8.5.0\x1b[2J\n", ""),
        (b"version=" + b"9" * 100_000, ""),
    ],
)
def test_odd_version_files(ascend: Path, content: bytes, version: str) -> None:
    file = ascend / "cann" / f"{platform.machine()}-linux" / "ascend_toolkit_install.info"
    file.write_bytes(content)
    assert cann.version(cann.roots({}, ascend)) == version


def test_the_environment_names_cann_first(ascend: Path) -> None:
    found = cann.roots({"ASCEND_HOME_PATH": "/opt/a", "ASCEND_TOOLKIT_HOME": ""}, ascend)
    assert found == [Path("/opt/a"), ascend / "cann", ascend / "ascend-toolkit" / "latest"]


# What they share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", ("2.13.0+cu130", "13.0", "")),
        ('__version__ = "2.4.0"\ncuda = "12.1"\nhip = None', ("2.4.0", "12.1", "")),
        ("__version__ = '2.13.0+rocm7.2'\ncuda: str | None = None\nhip: str | None = '7.2.1'", ("2.13.0+rocm7.2", "", "7.2.1")),
        ("__version__ = '2.1", ("", "", "")),
        ("__version__ = '\x1b[2J'\ncuda = '" + "1" * 65 + "'", ("", "", "")),
    ],
)  # fmt: skip
def test_torch_builds_are_read_from_text(tmp_path: Path, text: str, expected: tuple[str, str, str]) -> None:
    (tmp_path / "version.py").write_text(text)
    found = torch_build_in(tmp_path)
    assert (found.version, found.cuda, found.hip) == expected


def test_the_installed_torch_is_read_as_torch_tells_it() -> None:
    found = probing.torch_build()
    assert found is not None
    assert (found.version, found.cuda or None, found.hip or None) == (
        torch.__version__, torch.version.cuda, torch.version.hip,
    )  # fmt: skip
    assert found.folder == Path(torch.__file__).parent


def test_absent_packages_and_files_read_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch_build_in(tmp_path) == TorchBuild("", "", "", tmp_path)
    assert probing.package_version("no-such-distribution") == ""
    monkeypatch.setattr(probing, "find_spec", lambda name: None)
    assert probing.torch_build() is None


def test_reasons_are_one_line_with_the_first_remedy() -> None:
    assert reason([Cause("a", "do b")]) == "a; do b"
    assert reason([Cause("a", "do b"), Cause("c", "do d"), Cause("e", "do f")]) == "a; do b (also: c; e)"
    assert printable("one\n\ttwo \x07three" + "x" * 300) == "one two ?three" + "x" * 186
    assert field("a=1\nVERSION : 2.0\n", "version") == "2.0"


# Starting


def test_a_device_that_torch_cannot_open_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that opens")
    with pytest.raises(BackendUnavailable, match=r"^torch cannot open a cuda device: \S.*$") as caught:
        CudaBackend().start()
    assert "\n" not in str(caught.value)


def test_npu_start_maps_every_import_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch_npu raises without CANN is an ImportError over several lines; other builds raise RuntimeError."""
    for error in ("ImportError", "RuntimeError", "OSError"):
        (tmp_path / "torch_npu.py").write_text(f"raise {error}('libhccl.so: cannot open\\nPlease source set_env.sh')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch_npu", raising=False)
        with pytest.raises(BackendUnavailable) as caught:
            NpuBackend().start()
        assert str(caught.value) == (
            "npu: torch_npu cannot be imported: libhccl.so: cannot open Please source set_env.sh"
        )


class Module:
    """A device module of torch's that opens; simulated."""

    def __init__(self) -> None:
        self.opened = False

    def init(self) -> None:
        self.opened = True

    def mem_get_info(self) -> tuple[int, int]:
        return 3, 10

    def memory_allocated(self) -> int:
        return 5

    def max_memory_allocated(self) -> int:
        return 6


@pytest.mark.parametrize(("backend", "device_type"), [(CudaBackend(), "cuda"), (RocmBackend(), "cuda")])
def test_simulated_start_opens_the_device(
    backend: CudaBackend | RocmBackend, device_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module()
    monkeypatch.setattr(torch, "get_device_module", {device_type: module}.__getitem__)
    started = backend.start()
    assert module.opened and started.asynchronous
    memory = started.memory()
    assert (memory.allocated, memory.peak, memory.free, memory.total) == (5, 6, 3, 10)
    assert {k.name for k in backend.kernels()} == {"triton"}
