"""What the doctors of cpu, cuda, rocm and npu say of simulated machines: each finding, and that it can be wrong.

Nothing here has run on such a device: files are folders, drivers are objects.
"""

import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deepport import finding
from deepport.backend import Device
from deepport.finding import Finding, folder, numbers, openable, variable
from deepport.probing import TorchBuild
from deepport_cpu import diagnose as cpu
from deepport_cuda import CudaBackend, driver
from deepport_cuda import diagnose as cuda
from deepport_npu import NpuBackend, cann, compatibility, triton_ascend
from deepport_npu import diagnose as npu
from deepport_rocm import RocmBackend
from deepport_rocm import diagnose as rocm

CPU = TorchBuild("2.13.0+cpu", "", "", Path("/nowhere"))
CUDA = TorchBuild("2.13.0+cu130", "13.0", "", Path("/nowhere"))
HIP = TorchBuild("2.13.0+rocm7.2", "", "7.2.1", Path("/nowhere"))


def by_check(findings: Any) -> dict[str, Finding]:
    return {f.check: f for f in findings}


def states(found: dict[str, Finding]) -> dict[str, str]:
    return {check: f.state for check, f in found.items() if f.state != "ok"}


@pytest.fixture(autouse=True)
def _on_bare_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (finding, cuda, npu):
        monkeypatch.setattr(module, "contained", lambda: False)


# Shared checks


def test_files_that_may_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a0", tmp_path / "a1"]
    assert openable("f", files).found == f"{files[0]} and 1 more are not there"
    assert openable("f", files).fix == "load the driver, or install it"
    monkeypatch.setattr(finding, "contained", lambda: True)
    assert openable("f", files).fix == f"start the container with --device {files[0]} --device {files[1]}"
    for file in files:
        file.touch()
    assert openable("f", files) == Finding("f", "ok", f"{files[0]} and 1 more can be opened")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may open everything
    closed = openable("f", files, advice=True)
    group = finding._group(files[0])
    assert closed.found == f"{files[0]} and 1 more may not be opened by this user"
    assert closed.fix == f"add your user to the group {group} (usermod -a -G {group} USER) and log in again"
    assert not closed.fatal
    assert openable("f", files).fatal


def test_a_group_that_a_container_does_not_know_is_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(number: int) -> Any:
        raise KeyError(number)

    monkeypatch.setattr(finding.grp, "getgrgid", absent)
    assert finding._group(tmp_path) == str(tmp_path.stat().st_gid)


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_containers(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not finding.contained(tmp_path)
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    assert finding.contained(tmp_path)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("0", ""),
        ("0, 3", ""),
        ("", "hides every device"),
        ("a", "is no list of device numbers, such as 0,1"),
        ("0,", "is no list of device numbers, such as 0,1"),
        ("-1", "is no list of device numbers, such as 0,1"),
        ("²", "is no list of device numbers, such as 0,1"),
        ("1,1", "names a device twice"),
    ],
)
def test_lists_of_devices(value: str, why: str) -> None:
    assert numbers(value) == why


def test_variables(tmp_path: Path) -> None:
    assert variable({}, "A", "nothing is hidden") == Finding("A", "ok", "not set: nothing is hidden")
    assert variable({"A": str(tmp_path)}, "A", "", folder) == Finding("A", "ok", repr(str(tmp_path)))
    assert variable({"A": "/nowhere"}, "A", "", folder) == Finding(
        "A", "not ok", "'/nowhere': is no folder", "unset A", advice=True
    )
    assert variable({"A": "\x1b[2J"}, "A", "", folder).found.isprintable()


# npu


def ascend(root: Path, cann_version: str = "9.2.0", driver_version: str = "26.1.0") -> Path:
    """`/usr/local/Ascend` with CANN and driver, and beside it `dev` with two NPUs."""
    at = root / "Ascend"
    (at / "cann" / "lib64").mkdir(parents=True)
    (at / "cann" / "lib64" / "libascendcl.so").touch()
    arch = at / "cann" / f"{os.uname().machine}-linux"
    arch.mkdir()
    (arch / "ascend_toolkit_install.info").write_text(f"version={cann_version}\n")
    (at / "driver").mkdir()
    (at / "driver" / "version.info").write_text(f"Version={driver_version}\n")
    (root / "dev").mkdir()
    for name in ("davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"):
        (root / "dev" / name).touch()
    return at


def loader(*missing: str) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if name in missing:
            raise OSError(f"{name}: cannot open shared object file")
        return ctypes.CDLL(None)  # a library, and none of a vendor's

    return load


def npu_of(
    at: Path,
    *missing: str,
    torch_npu: str = "2.13.0",
    environment: Mapping[str, str] | None = None,
    build: TorchBuild | None = CPU,
) -> dict[str, Finding]:
    there = (lambda: torch_npu, loader(*missing), cann.roots({}, at), at, at.parent / "dev", triton_ascend.wanted)
    backend = NpuBackend(lambda: build, *there)
    return by_check(npu.diagnose(backend, environment or {}))


def test_a_healthy_npu(tmp_path: Path) -> None:
    found = npu_of(ascend(tmp_path, "9.1.0"))
    assert states(found) == {}
    assert found["driver"].found == "26.1.0"
    assert found["CANN"].found == "9.1.0"
    assert found["torch_npu"].found == "2.13.0, for this torch"
    assert found["torch_npu with CANN"].found == (
        "torch_npu 2.13.0 is of TorchNPU 26.2.0, made for CANN 9.2.0; it is said to run with 9.1.0, too"
    )
    assert found["driver with CANN"].found == "CANN 9.1.0 runs with driver 26.1.0"
    assert found["triton-ascend"].found == f"{triton_ascend.wanted()}; kernels are compiled when they are first called"


def test_a_machine_without_any_of_it(tmp_path: Path) -> None:
    found = npu_of(tmp_path / "nowhere" / "Ascend", "libascendcl.so", "libhccl.so", torch_npu="", build=None)
    fatal = [check for check, f in found.items() if f.fatal]
    assert fatal == ["driver", "CANN", "torch", "torch_npu", "device files", "HCCL"]
    assert all(found[check].fix for check in fatal)
    assert {check for check, f in found.items() if f.state == "unknown"} == {"torch_npu with CANN", "driver with CANN"}


def test_cann_that_is_not_on_the_path(tmp_path: Path) -> None:
    found = npu_of(at := ascend(tmp_path), "libascendcl.so", "libhccl.so")
    assert found["CANN"].fix == f"run `source {at}/cann/set_env.sh` first"
    assert found["LD_LIBRARY_PATH"].state == "not ok"
    assert found["HCCL"].found == "libhccl.so: cannot open shared object file"


def test_hccl_alone_is_missing(tmp_path: Path) -> None:
    found = npu_of(ascend(tmp_path, "9.1.0"), "libhccl.so")
    assert states(found) == {"HCCL": "not ok"}
    assert found["HCCL"].fatal


def test_a_torch_npu_of_another_release(tmp_path: Path) -> None:
    found = npu_of(ascend(tmp_path), torch_npu="2.9.0")
    assert found["torch_npu"].fatal
    assert found["torch_npu"].fix == "pip install 'torch-npu==2.13.*'"


def test_a_driver_that_is_installed_elsewhere_or_does_not_say(tmp_path: Path) -> None:
    at = ascend(tmp_path)
    (at / "driver" / "version.info").write_bytes(b"Version=\xff\xfe\x1b[2J\n")
    found = npu_of(at)
    assert (found["driver"].state, found["driver with CANN"].state) == ("unknown", "unknown")
    (at / "driver" / "version.info").unlink()
    (at / "driver").rmdir()
    elsewhere = npu_of(at)["driver"]
    assert (elsewhere.state, elsewhere.fatal) == ("not ok", False)
    assert elsewhere.fix == "install the NPU driver and firmware"


def test_npu_files_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ascend(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path.name == "davinci1")
    found = npu_of(at)
    assert found["device files"].state == "not ok"
    assert not found["device files"].fatal  # one of the two is enough
    assert "davinci_manager and 2 more may not be opened" in found["driver files"].found
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert npu_of(at)["device files"].fatal


def test_npu_driver_files_that_a_container_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ascend(tmp_path)
    (tmp_path / "dev" / "hisi_hdc").unlink()
    for module in (finding, npu):
        monkeypatch.setattr(module, "contained", lambda: True)
    found = npu_of(at)["driver files"]
    assert found.fix == f"start the container with --device {tmp_path}/dev/hisi_hdc"
    assert not found.fatal


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ASCEND_HOME_PATH", "/nowhere"),
        ("ASCEND_OPP_PATH", "/nowhere/opp"),
        ("ASCEND_RT_VISIBLE_DEVICES", "all"),
        ("TASK_QUEUE_ENABLE", "3"),
        ("ASCEND_LAUNCH_BLOCKING", "yes"),
        ("TORCH_NPU_FALLBACK_CPU_DISABLE", "true"),
    ],
)
def test_npu_variables_that_are_wrong(tmp_path: Path, name: str, value: str) -> None:
    found = npu_of(ascend(tmp_path, "9.1.0"), environment={name: value})
    assert states(found) == {name: "not ok"}
    assert not found[name].fatal
    assert found[name].fix


def test_the_library_path_names_the_folder_with_cann(tmp_path: Path) -> None:
    at = ascend(tmp_path)
    path = f"/nowhere:{at}/cann/lib64"
    assert npu_of(at, environment={"LD_LIBRARY_PATH": path})["LD_LIBRARY_PATH"].found.endswith(f"is in {at}/cann/lib64")


def test_a_simulated_cann_needs_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cann, "simulator", lambda library: "a simulator 1")
    monkeypatch.setattr(cann, "simulated", lambda library: (1, "9.2.0"))
    found = npu_of(tmp_path / "Ascend")
    assert states(found) == {}
    assert found["driver"].found == "a simulator needs none"
    assert "device files" not in found


# The compatibility table


@pytest.mark.parametrize(
    ("torch_npu", "version", "state", "said"),
    [
        ("2.13.0", "9.2.0", "ok", "torch_npu 2.13.0 is of TorchNPU 26.2.0, made for CANN 9.2.0"),
        ("2.13.0", "9.2.1", "ok", "made for CANN 9.2.0"),
        ("2.13.0", "8.5.0", "ok", "it is said to run with 8.5.0, too"),
        ("2.12.0.post2", "9.1.3", "ok", "TorchNPU 26.1.1, made for CANN 9.1.X"),
        ("2.13.0", "8.3.RC1", "unknown", "of 8.3.RC1 nothing is said"),
        ("2.13.0", "10.0.0", "unknown", "of 10.0.0 nothing is said"),
        ("2.13.0.post1", "9.2.0", "unknown", "is in no table"),
        ("2.13.0", "", "unknown", "the version of CANN is not known"),
        ("", "9.2.0", "unknown", "the version of torch_npu is not known"),
    ],
)
def test_torch_npu_with_cann(torch_npu: str, version: str, state: str, said: str) -> None:
    found = compatibility.with_cann(torch_npu, version)
    assert found.state == state
    assert said in found.found


@pytest.mark.parametrize(
    ("version", "release", "state"),
    [
        ("9.1.0", "25.5.0", "ok"),
        ("9.1.1", "26.0.RC1", "ok"),
        ("9.1.0", "25.0.RC1", "not ok"),
        ("8.5.2", "25.0.2", "ok"),
        ("9.1.0", "24.1.RC3", "unknown"),
        ("9.2.0", "26.1.0", "unknown"),
        ("9.1.0", "", "unknown"),
        ("", "25.5.0", "unknown"),
    ],
)
def test_driver_with_cann(version: str, release: str, state: str) -> None:
    found = compatibility.with_driver(version, release)
    assert (found.state, found.fatal) == (state, False)


def test_the_table_is_whole() -> None:
    """Each package is of one release and is built for the torch that its version begins with; each row has its source."""
    table = compatibility.table()
    packages = [p for release in table["release"] for p in release["packages"]]
    assert len(packages) == len(set(packages))
    for release in table["release"]:
        assert all(package.split(".post")[0] == torch for package, torch in release["packages"].items())
        assert compatibility._line(release["torchnpu"]) in table["runs_with"]["torchnpu"]
        assert compatibility._line(release["cann"]) in table["runs_with"]["cann"]
    assert all(row["source"] for row in [*table["release"], *table["driver"], table["runs_with"]])


# cuda


def nvidia(root: Path) -> Path:
    (root / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (root / "dev" / name).touch()
    version = root / "proc" / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 01:56:15 UTC 2025\n")
    return root


def cuda_of(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: TorchBuild | None = CUDA,
    supports: tuple[int, int] | Exception = (13, 0),
    environment: Mapping[str, str] | None = None,
) -> dict[str, Finding]:
    def query(load: Any) -> driver.Driver:
        if isinstance(supports, Exception):
            raise supports
        return driver.Driver(supports, (Device("A"),))

    monkeypatch.setattr(driver, "query", query)
    monkeypatch.setattr(cuda, "package_version", lambda name: "2.28.9" if name == "nvidia-nccl-cu13" else "")
    return by_check(cuda.diagnose(CudaBackend(lambda: build), environment or {}, root))


def test_a_healthy_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cuda_of(nvidia(tmp_path), monkeypatch)
    assert states(found) == {}
    assert found["kernel driver"].found == "570.124.06"
    assert found["driver with torch"].found == "13.0 runs a build for 13.0"
    assert found["NCCL"].found == "nvidia-nccl-cu13 2.28.9"


@pytest.mark.parametrize(
    ("build", "supports", "check"),
    [
        (None, (13, 0), "torch"),
        (CPU, (13, 0), "torch"),
        (HIP, (13, 0), "torch"),
        (CUDA, (12, 8), "driver with torch"),
        (CUDA, OSError("no libcuda"), "driver"),
        (CUDA, driver.DriverError("no CUDA-capable device"), "driver"),
    ],
)
def test_cuda_that_cannot_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    build: TorchBuild | None,
    supports: tuple[int, int] | Exception,
    check: str,
) -> None:
    found = cuda_of(nvidia(tmp_path), monkeypatch, build, supports)
    assert states(found) == {check: "not ok"}
    assert found[check].fatal
    assert found[check].fix


def test_cuda_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cuda_of(tmp_path, monkeypatch, supports=OSError("no libcuda"))
    assert found["kernel driver"].state == "unknown"
    assert found["device files"].fatal
    monkeypatch.setattr(cuda, "contained", lambda: True)
    assert cuda_of(tmp_path, monkeypatch)["device files"].fix == "start the container with --gpus all"
    assert not cuda_of(tmp_path, monkeypatch)["device files"].fatal  # a driver that answers has what it needs
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "dxg").touch()
    assert cuda_of(tmp_path, monkeypatch)["device files"].state == "ok"


def test_nccl_may_be_torchs_own_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = TorchBuild("2.13.0+cu126", "12.6", "", tmp_path)
    assert cuda_of(tmp_path, monkeypatch, build)["NCCL"].state == "unknown"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libnccl.so.2").touch()
    assert cuda_of(tmp_path, monkeypatch, build)["NCCL"].found == f"in {tmp_path / 'lib'}"


@pytest.mark.parametrize(
    ("value", "state"), [("0,1", "ok"), ("GPU-8f", "ok"), ("-1", "not ok"), ("", "not ok"), ("x", "not ok")]
)
def test_visible_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, state: str) -> None:
    found = cuda_of(nvidia(tmp_path), monkeypatch, environment={"CUDA_VISIBLE_DEVICES": value})
    assert found["CUDA_VISIBLE_DEVICES"].state == state


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"Kernel Module" * 20_000, b"Kernel Module x.y z\n"])
def test_hostile_kernel_driver_version(tmp_path: Path, content: bytes) -> None:
    (nvidia(tmp_path) / "proc" / "driver" / "nvidia" / "version").write_bytes(content)
    assert cuda._kernel_driver(tmp_path).state == "unknown"


# rocm


def rocm_of(
    root: Path, build: TorchBuild | None = HIP, environment: Mapping[str, str] | None = None
) -> dict[str, Finding]:
    return by_check(rocm.diagnose(RocmBackend(lambda: build, root / "nodes", root / "kfd"), environment or {}, root))


def amd(root: Path) -> Path:
    (root / "kfd").touch()
    (root / "dev" / "dri").mkdir(parents=True)
    (root / "dev" / "dri" / "renderD128").touch()
    (root / "torch" / "lib").mkdir(parents=True)
    (root / "torch" / "lib" / "librccl.so.1").touch()
    return root


def test_a_healthy_amd_gpu(tmp_path: Path) -> None:
    build = TorchBuild(HIP.version, "", HIP.hip, tmp_path / "torch")
    found = rocm_of(amd(tmp_path), build)
    assert states(found) == {}
    assert found["driver"].found.endswith("amdgpu of the Linux kernel")
    version = tmp_path / "sys" / "module" / "amdgpu" / "version"
    version.parent.mkdir(parents=True)
    version.write_bytes(b"6.12.12\x1b[2J\n")
    assert rocm_of(tmp_path, build)["driver"].found.endswith("amdgpu 6.12.12?[2J")


def test_rocm_that_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rocm_of(tmp_path, CPU)
    assert [check for check, f in found.items() if f.fatal] == ["driver", "torch"]
    assert not found["device files"].fatal
    assert rocm_of(amd(tmp_path), None)["torch"].fatal
    assert rocm_of(tmp_path)["RCCL"].state == "unknown"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert rocm_of(tmp_path)["driver"].fix == "add your user to the groups render and video"


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("HIP_VISIBLE_DEVICES", "0", "ok"),
        ("HIP_VISIBLE_DEVICES", "gpu", "not ok"),
        ("CUDA_VISIBLE_DEVICES", "", "not ok"),
        ("ROCR_VISIBLE_DEVICES", "GPU-abc", "ok"),
        ("ROCR_VISIBLE_DEVICES", "", "not ok"),
        ("HSA_OVERRIDE_GFX_VERSION", "9.0.0", "not ok"),
        ("AMD_SERIALIZE_KERNEL", "7", "not ok"),
    ],
)
def test_rocm_variables(tmp_path: Path, name: str, value: str, state: str) -> None:
    found = rocm_of(tmp_path, environment={name: value})[name]
    assert (found.state, found.fatal) == (state, False)


# cpu


def cpu_of(root: Path, environment: Mapping[str, str] | None = None) -> dict[str, Finding]:
    return by_check(cpu.diagnose(environment or {}, root))


def host(root: Path, **files: str) -> Path:
    places = {
        "cpuinfo": "proc/cpuinfo",
        "limit": "sys/fs/cgroup/cpu.max",
        "pages": "sys/kernel/mm/transparent_hugepage/enabled",
    }
    for name, text in files.items():
        (root / places[name]).parent.mkdir(parents=True, exist_ok=True)
        (root / places[name]).write_text(text)
    return root


def test_a_healthy_host(tmp_path: Path) -> None:
    found = cpu_of(host(tmp_path, cpuinfo="flags\t\t: fpu avx2 amx_bf16 sse\n", pages="always [madvise] never\n"))
    assert states(found) == {}
    assert found["instructions"].found == "avx2 amx_bf16"
    assert found["huge pages"].found == "madvise"
    assert cpu_of(host(tmp_path, cpuinfo="Features : fp asimd sve bf16\n"))["instructions"].found == "asimd bf16 sve"


def test_a_host_that_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    slow = host(tmp_path, cpuinfo="flags : sse2\n", limit="150000 100000\n", pages="always madvise [never]\n")
    found = cpu_of(slow, {"OMP_NUM_THREADS": "9"})
    wrong = {check: f.fix for check, f in found.items() if f.state == "not ok"}
    assert list(wrong) == ["instructions", "cores", "huge pages", "OMP_NUM_THREADS"]
    assert wrong["cores"] == "export OMP_NUM_THREADS=1"
    assert found["cores"].found == "8, of which the container's limit pays for 1.5"
    assert not any(f.fatal for f in found.values())


@pytest.mark.parametrize(
    "limit", ["max 100000\n", "800000 100000\n", "", "0 0\n", "5 0\n", "a b\n", "9" * 400 + " 1\n"]
)
def test_limits_that_limit_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert cpu_of(host(tmp_path, limit=limit))["cores"].state == "ok"


def test_a_host_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "package_version", lambda name: "")
    found = cpu_of(tmp_path)
    assert states(found) == {"torch": "not ok", "instructions": "unknown", "huge pages": "unknown"}
    assert found["torch"].fatal


@pytest.mark.parametrize("value", ["", "0", "many", "-1", "²"])
def test_threads_that_are_no_number(tmp_path: Path, value: str) -> None:
    assert cpu_of(tmp_path, {"OMP_NUM_THREADS": value})["OMP_NUM_THREADS"].state == "not ok"
