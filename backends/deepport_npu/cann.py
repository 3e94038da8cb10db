"""CANN, Ascend's toolkit, and the NPUs: where they are installed, and what they say of themselves."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from deepport.backend import Device
from deepport.probing import field, printable, read

ASCEND = Path("/usr/local/Ascend")
_MOST_DEVICES = 1024


def roots(environment: Mapping[str, str] = os.environ, ascend: Path = ASCEND) -> list[Path]:
    """Folders in which CANN may be, the one that the environment names first (`cann` since 8.5, `latest` before)."""
    named = [Path(v) for n in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if (v := environment.get(n))]
    return [*named, ascend / "cann", ascend / "ascend-toolkit" / "latest"]


def installed(folders: Iterable[Path]) -> Path | None:
    """The first folder with CANN's runtime library in it."""
    return next((f for f in folders if (f / "lib64" / "libascendcl.so").exists()), None)


def version(folders: Iterable[Path]) -> str:
    """CANN's version, from the file that its installer writes; "" where no folder has one."""
    name = f"{platform.machine()}-linux/ascend_toolkit_install.info"
    return next((v for f in folders if (v := field(read(f / name), "version"))), "")


def driver_version(ascend: Path = ASCEND) -> str:
    return field(read(ascend / "driver" / "version.info"), "Version")


def device_count(dev: Path) -> int:
    """How many `davinci<number>` device files there are; `davinci_manager` is not a device."""
    try:
        return min(sum(re.fullmatch(r"davinci\d+", p.name) is not None for p in dev.iterdir()), _MOST_DEVICES)
    except OSError:
        return 0


def runtime(load: Callable[[str], Any]) -> Any:
    """CANN's runtime library; OSError where it cannot be loaded. Nothing is initialised: torch_npu does that."""
    return load("libascendcl.so")


def soc(library: Any) -> str:
    """The chip's name (`aclrtGetSocName`), such as `Ascend910B2`; "" where the runtime does not know."""
    ask = getattr(library, "aclrtGetSocName", None)
    if ask is None:
        return ""
    ask.restype = ctypes.c_char_p
    return printable((ask() or b"").decode(errors="replace"))


def device(name: str, simulator: str = "") -> Device:
    """A chip by its name, which says so where a simulator stands in for it. Its memory is known only once it is started."""
    architecture = next((a for prefix, a in _ARCHITECTURES if name.startswith(prefix)), "")
    shown = (name or "Ascend NPU") + (", simulated" if simulator else "")
    return Device(shown, architecture, 0, _FORMATS.get(architecture, ("float32",)))


def simulator(library: Any) -> str:
    """What a simulator of CANN calls itself, in the symbol `deepport_cann_simulator`; "" for CANN's own library."""
    try:
        name = ctypes.c_char_p.in_dll(library, "deepport_cann_simulator").value if library else b""
    except ValueError:  # no such symbol
        return ""
    return printable((name or b"").decode(errors="replace"))


def simulated(library: Any) -> tuple[int, str]:
    """How many devices a simulator has, and which version of CANN it is."""
    count = ctypes.c_uint32()
    library.aclrtGetDeviceCount(ctypes.byref(count))
    return min(count.value, _MOST_DEVICES), told(library)


def told(library: Any) -> str:
    """The version that CANN's library says of itself, as torch_npu asks it; "" where it does not."""
    ask, version = getattr(library, "aclsysGetVersionStr", None), ctypes.create_string_buffer(128)
    return "" if ask is None or ask(b"runtime", version) else printable(version.value.decode(errors="replace"))


NAMES = {"910B": "A2", "910C": "A3", "910_93": "A3", "910_95": "A5", "950": "A5", "A2": "A2", "A3": "A3", "A5": "A5"}
"""What people call a chip, and its generation; 910C is sold as Ascend 910_93."""


def family(chip: str) -> str:
    """The generation of a chip by any name of it, such as `Ascend910B2`; "" where it is no Ascend chip that is known."""
    short = chip.removeprefix("Ascend").removeprefix(" ").upper()
    return next((generation for name, generation in NAMES.items() if short.startswith(name)), "")


_ARCHITECTURES = (("Ascend910B", "A2"), ("Ascend910_93", "A3"), ("Ascend910_95", "A5"), ("Ascend950", "A5"))
_FORMATS = {
    "A2": ("float32", "bfloat16", "int8"),
    "A3": ("float32", "bfloat16", "int8"),
    "A5": ("float32", "bfloat16", "int8", "fp8_e4m3", "mxfp4"),
}
"""Number formats of the cube unit, by generation (design: facts/ascend.md)."""
