"""AMD GPUs as the Linux kernel lists them (`/sys/class/kfd/kfd/topology`, documented in the kernel's kfd_topology.c)."""

from __future__ import annotations

from pathlib import Path

from deepport.backend import Device
from deepport.probing import printable, read

TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")
_FRAMEBUFFER = (1, 2)  # HSA_HEAPTYPE_FRAME_BUFFER_PUBLIC, _PRIVATE: memory of the GPU, not of the host


def devices(nodes: Path) -> tuple[Device, ...]:
    """The GPUs in the order of their nodes; nodes of CPUs, and those a container may not read, are left out."""
    try:
        found = sorted((n for n in nodes.iterdir() if n.name.isdecimal()), key=lambda n: int(n.name))
    except OSError:
        return ()
    return tuple(device for node in found if (device := _device(node)))


def _device(node: Path) -> Device | None:
    target = _properties(node).get("gfx_target_version", 0)
    if target <= 0:
        return None
    architecture = f"gfx{target // 10000}{target // 100 % 100:x}{target % 100:x}"
    banks = [_properties(bank) for bank in node.glob("mem_banks/*")]
    memory = sum(b.get("size_in_bytes", 0) for b in banks if b.get("heap_type") in _FRAMEBUFFER)
    return Device(printable(read(node / "name")) or architecture, architecture, memory, formats(architecture))


def _properties(folder: Path) -> dict[str, int]:
    """The lines `name number` of a `properties` file; what is not such a line is skipped."""
    words = (line.split() for line in read(folder / "properties").splitlines())
    return {w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isascii() and w[1].isdecimal() and len(w[1]) < 20}


def formats(architecture: str) -> tuple[str, ...]:
    """Number formats with matrix instructions (AMD's ISA guides); gfx942's float8 is the FNUZ format, not OCP's."""
    if architecture in ("gfx908", "gfx90a"):
        return ("float32", "bfloat16", "int8")
    if architecture == "gfx942":
        return ("float32", "bfloat16", "int8", "fp8_e4m3fnuz")
    if architecture == "gfx950":
        return ("float32", "bfloat16", "int8", "fp8_e4m3", "mxfp4")
    if architecture.startswith("gfx12"):
        return ("float32", "bfloat16", "int8", "fp8_e4m3")
    return ("float32", "bfloat16", "int8") if architecture.startswith("gfx11") else ("float32",)
