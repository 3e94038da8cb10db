"""What compiled code needs of a chip, read from the code itself."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_EXECUTABLE = 0x4
"""SHF_EXECINSTR of ELF: a section of instructions."""

_PRODUCT = re.compile(r"tt\.dot(?:_scaled)? [^\n]*: tensor<[\dx]+x(?:bf16|f16|f8\w+)[,>]")
_DUMPED = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


def facts(code: Mapping[str, Any], shared: int, instructions: tuple[str, ...]) -> dict[str, Any]:
    """Registers of a thread; bytes of local memory that it spills to; bytes of shared memory and of code; products' instructions.

    `code` is what Triton's stages gave, by their names; `shared` what it says of them. `product`: whether numbers of 16 bits or
    fewer are multiplied as matrices, for which every chip has an instruction.
    """
    nvidia = "cubin" in code
    registers, spilled = _of_nvidia(code["cubin"]) if nvidia else _of_amd(code["amdgcn"])
    text = code["ptx"] if nvidia else code["amdgcn"]
    return {
        "registers": registers,
        "spills": spilled,
        "shared": shared,
        "code": instruction_bytes(code["cubin" if nvidia else "hsaco"]),
        "instructions": [i for i in instructions if re.search(rf"^\s*(?:@\S+ )?{re.escape(i)}", text, re.MULTILINE)],
        "product": _PRODUCT.search(code["ttir"]) is not None,
    }


def _of_nvidia(cubin: bytes) -> tuple[int, int]:
    from triton.backends.nvidia import driver

    tools = Path(driver.__file__).parent / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        registers, local = dumped(_said(tools / "cuobjdump", "--dump-resource-usage", file.name))
        return registers, local if local and spills(_said(tools / "nvdisasm", file.name)) else 0


def _said(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def spills(instructions: str) -> bool:
    """Whether any instruction goes to local memory: a place on the stack that ptxas has optimised away is kept all the same."""
    return re.search(r"\b(?:LDL|STL)\b", instructions) is not None


def dumped(text: str) -> tuple[int, int]:
    """Registers and local bytes, as cuobjdump tells them: what ptxas spills is on the stack. ValueError for other text."""
    found = _DUMPED.search(text)
    if found is None:
        raise ValueError("cuobjdump does not tell what the code uses")
    return int(found[1]), int(found[2]) + int(found[3])


def _of_amd(assembly: str) -> tuple[int, int]:
    """Of the metadata of LLVM's AMDGPU; `.vgpr_count` has the accumulators, too. ValueError where there is none."""
    found = {name: re.search(rf"^\s*\.{name}:\s*(\d+)", assembly, re.MULTILINE) for name in _AMD}
    if None in found.values():
        raise ValueError("the assembly does not tell what the code uses")
    registers, scratch = (int(match[1]) for match in found.values() if match)
    return registers, scratch


_AMD = ("vgpr_count", "private_segment_fixed_size")


def instruction_bytes(elf: bytes) -> int:
    """The size of an ELF file's instructions, 64 bits, little-endian. ValueError for another file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("the code is no ELF file of 64 bits")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    heads = (struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count))
    return sum(length for _, _, flags, _, _, length in heads if flags & _EXECUTABLE)
