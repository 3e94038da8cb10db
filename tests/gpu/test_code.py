"""What is read from compiled code, on texts and files as the tools write them; and that other texts are refused."""

from __future__ import annotations

import struct

import pytest

from deepport_triton.ahead.code import _of_amd, dumped, facts, instruction_bytes, spills

DUMP = """
Resource usage:
 Common:
  GLOBAL:0
 Function _attention_token:
  REG:168 STACK:24 SHARED:0 LOCAL:8 CONSTANT[0]:1028 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
METADATA = """
    .private_segment_fixed_size: 944
    .sgpr_count:     44
    .vgpr_count:     256
    .vgpr_spill_count: 236
"""


def elf(*sections: tuple[int, int]) -> bytes:
    """A file of 64 bits whose sections have these flags and sizes, and no contents."""
    head = b"\x7fELF\x02\x01" + bytes(0x28 - 6) + struct.pack("<Q", 64) + bytes(0x3A - 0x30)
    head += struct.pack("<HH", 64, len(sections)) + bytes(2)
    return head.ljust(64, b"\0") + b"".join(
        struct.pack("<IIQQQQ", 0, 1, flags, 0, 0, size).ljust(64, b"\0") for flags, size in sections
    )


def test_what_ptxas_spills_is_on_the_stack() -> None:
    assert dumped(DUMP) == (168, 32)


@pytest.mark.parametrize(
    ("instruction", "spilled"),
    [("STL [R1+0x4], R9", True), ("@P0 LDL.LU R3, [R1]", True), ("LDG.E R2, [R4]", False), (".nv.LDLX", False)],
)
def test_a_place_on_the_stack_that_nobody_uses_is_no_spill(instruction: str, spilled: bool) -> None:
    assert spills(f"/*0010*/  IMAD R1, R2, R3 ;\n/*0020*/  {instruction} ;\n") is spilled


def test_registers_and_scratch_of_amd() -> None:
    assert _of_amd(METADATA) == (256, 944)


@pytest.mark.parametrize("read", [dumped, _of_amd])
def test_a_text_that_tells_nothing_is_refused(read: object) -> None:
    assert callable(read)
    with pytest.raises(ValueError, match="does not tell"):
        read("REG: STACK:")


def test_code_is_what_can_be_executed() -> None:
    assert instruction_bytes(elf((0x6, 512), (0x2, 4096), (0x4, 128))) == 640


@pytest.mark.parametrize("other", [b"", b"\x7fELF\x01\x01" + bytes(100)])
def test_another_file_is_no_code(other: bytes) -> None:
    with pytest.raises(ValueError, match="no ELF file of 64 bits"):
        instruction_bytes(other)


PRODUCTS = {
    "bf16": ("%9 = tt.dot %7, %8, %6 : tensor<16x512xbf16> * tensor<512x16xbf16> -> tensor<16x16xf32>", True),
    "fp8": ("%9 = tt.dot %7, %8, %6 : tensor<16x64xf8E4M3FN, #a> * tensor<64x16xf8E4M3FN, #b>", True),
    "float32": ("%9 = tt.dot %7, %8, %6 : tensor<16x512xf32> * tensor<512x16xf32> -> tensor<16x16xf32>", False),
    "none": ("%9 = arith.mulf %7, %8 : tensor<16x512xbf16>", False),
}


@pytest.mark.parametrize("of", PRODUCTS)
def test_a_product_of_short_numbers_should_be_a_matrix_instruction(of: str) -> None:
    ir, wanted = PRODUCTS[of]
    text = METADATA + "\tv_mfma_f32_16x16x16_bf16 v[0:3], v[4:5], v[6:7], 0\n\t; v_wmma in a comment\n"
    found = facts({"amdgcn": text, "hsaco": elf((4, 8)), "ttir": ir}, 32, ("v_mfma", "v_wmma"))
    assert found["product"] is wanted
    assert found["instructions"] == ["v_mfma"]
    assert (found["registers"], found["spills"], found["shared"], found["code"]) == (256, 944, 32, 8)
