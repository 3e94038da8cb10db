"""The capability table: every limit in it refuses what is just outside, takes what is just inside, and says where it is from."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
import torch
from npu.calls import SIZES, VERSIONS, call
from npu.limits import KNOWN, Limit, limits, named

from deepport.kernel import Support
from deepport_npu.capability import TABLE, TORCH_NPU, BadTable, Entry, check, read, table
from deepport_npu.compatibility import made_for
from deepport_npu.kernels.chip import laid

ENTRIES = [entry for chips in table().values() for entry in chips.values() if entry.operator in SIZES]
LIMITS = [limit for entry in ENTRIES for limit in limits(entry)]


def _asked(entry: Entry, **changes: Any) -> Support:
    return check(entry.operator, entry.family, VERSIONS, call(entry) | changes)


def _refused(answer: Support, code: str, *said: str) -> None:
    assert not answer, f"taken, where {code} is outside: {said}"
    assert answer.code == code, answer
    assert all(text in answer.reason for text in said), (said, answer.reason)


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_every_entry_takes_an_ordinary_call(entry: Entry) -> None:
    assert _asked(entry), _asked(entry).reason


def test_every_operator_of_the_table_is_tested() -> None:
    unknown = set(table()) ^ set(SIZES)
    assert not unknown, f"calls.SIZES and the table differ: it has the sizes of an ordinary call of each; {unknown}"


def test_every_fact_of_an_entry_has_its_cases() -> None:
    """A new kind of limit, which no call of `limits` breaks, is seen here."""
    for kind, names in KNOWN.items():
        assert {f.name for f in fields(kind)} == names


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{named(limit.entry)}-{limit.name}")
def test_every_limit_refuses_just_outside(limit: Limit) -> None:
    entry = limit.entry
    answer = check(entry.operator, entry.family, dict(limit.versions), limit.call)
    _refused(answer, limit.code, limit.said, limit.source)
    if limit.inside is not None:
        near = check(entry.operator, entry.family, VERSIONS, limit.inside)
        assert near, near.reason


@pytest.mark.parametrize("entry", ENTRIES, ids=named)
def test_an_optional_tensor_may_be_left_out(entry: Entry) -> None:
    for name in (n for n, rule in entry.tensors.items() if rule.optional):
        assert _asked(entry, **{name: None})


def test_no_number_stands_for_a_truth_value() -> None:
    entry = table()["npu_lightning_indexer"]["A2"]
    _refused(_asked(entry, return_value=0), "attribute", "return_value is 0")


@pytest.mark.parametrize(
    ("operator", "family"), [("npu_mhc_post", "A2"), ("npu_clipped_swiglu", "A5"), ("npu_rms_norm", "")]
)
def test_a_chip_that_no_page_names_is_refused(operator: str, family: str) -> None:
    answer = check(operator, family, VERSIONS, {})
    _refused(answer, "device", operator, "is documented for")


def test_the_least_cann_is_that_of_the_torch_npu_s_release() -> None:
    assert {e.cann for e in ENTRIES if not e.schema} == {made_for(TORCH_NPU)} == {"9.2.0"}
    assert table()["npu_hc_post"]["A2"].cann == "9.1.0"  # of vllm-ascend's torch-npu==2.10.0.post4


@pytest.mark.parametrize(("found", "taken"), [("9.2.0", True), ("9.2.RC1", True), ("9.10.0", True), ("9.1.1", False)])
def test_versions_are_compared_by_their_numbers(found: str, taken: bool) -> None:
    entry = table()["npu_rms_norm"]["A2"]
    assert bool(check(entry.operator, entry.family, VERSIONS | {"cann": found}, call(entry))) == taken


def test_a_row_may_name_its_own_least_cann() -> None:
    text = TABLE.read_text().replace(
        "[npu_mhc_sinkhorn.chips]\nA5 = {}", '[npu_mhc_sinkhorn.chips]\nA5 = { cann = "9.1", torch_npu = "3.0" }'
    )
    assert read(text)["npu_mhc_sinkhorn"]["A5"].cann == "9.1"


def test_the_same_size_is_the_same_in_every_tensor() -> None:
    entry = table()["npu_grouped_matmul"]["A2"]
    other = laid(torch.bfloat16, 3, 9, 4)
    _refused(_asked(entry, weight=other), "shape", "weight is [3, 9, 4]", "K = 8")


def test_a_size_that_is_a_sum_must_come_out() -> None:
    entry = table()["npu_mhc_pre"]["A5"]
    _refused(_asked(entry, phi=laid(torch.float32, 23, 512)), "shape", "phi is [23, 512]", "n*n+2*n", "n = 4")


def test_an_argument_or_operator_that_the_table_has_not_is_a_bug() -> None:
    with pytest.raises(ValueError, match="npu_rms_norm on A2 has no argument 'gama'"):
        check("npu_rms_norm", "A2", VERSIONS, {"gama": None})
    with pytest.raises(KeyError, match="has no operator npu_rms"):
        check("npu_rms", "A2", VERSIONS, {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('source = "rms_norm"', 'source = "nobody"', "'nobody' is not listed"),
        ("A5 = {}", "A6 = {}", "chips must be some of A2, A3, A5"),
        ("contiguous = true", "contigous = true", "'contigous' is none of"),
        ("C = { multiple = 2 }", "Z = { multiple = 2 }", "no tensor has a size 'Z'"),
        ('same_dtype = [["input", "r1", "r2"]]', 'same_dtype = [["input", "r9"]]', "'r9', which is no tensor"),
        ("max = 2048 }", "most = 2048 }", "'most' is none of"),
        ('dtypes = ["float32"], shapes = ["D"]', 'dtypes = [], shapes = ["D"]', "dtypes and shapes are needed"),
        ("[sources]\nwheel", "[sources\nwheel", "capabilities: "),
        (
            'A2.torch_npu = "2.10.0.post4"',
            'A2.torch_npu = "2.10.9"',
            "no release of compatibility.toml has torch_npu 2.10.9",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_when_it_is_read(old: str, new: str, said: str) -> None:
    text = TABLE.read_text()
    assert old in text
    with pytest.raises(BadTable, match=said.replace("(", "\\(")):
        read(text.replace(old, new, 1))


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; from deepport_npu import capability; capability.table(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
