"""vllm-ascend's operators: our calls fit the schemas that we rely on, and give our operators' results by their pages' meaning."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deepport_npu.capability import table
from deepport_npu.kernels import kernels_for
from deepport_npu.vllm_ascend import difference, offers

TESTS = Path(__file__).parent.parent
SCHEMAS = {n: found.schema for n, chips in table().items() if (found := next(iter(chips.values()))).schema}


def _python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _declared(*changed: str) -> dict[str, dict[str, Any]]:
    program = str(TESTS / "npu" / "programs" / "custom.py")
    lines = [json.loads(line) for line in _python(program, *changed, PYTHONPATH=str(TESTS)).splitlines()]
    return {line["kernel"]: line for line in lines}


def test_calls_fit_the_schemas_and_mean_what_our_operators_mean() -> None:
    found = _declared()
    assert set(found) == set(SCHEMAS)
    for line in found.values():
        assert (line["reason"], line["failed"]) == ("", [])
        assert line["ran"] >= 3


@pytest.mark.parametrize(
    ("operator", "old", "new", "said"),
    [
        ("npu_hc_post", "Tensor post, Tensor comb", "Tensor comb, Tensor post", "`Tensor comb` where `Tensor post`"),
        ("npu_hc_post", "Tensor comb)", "Tensor comb, *, bool out=False)", "also `*, bool out=False`"),
        ("npu_hc_post", "Tensor comb)", "Tensor? comb)", "`Optional[Tensor] comb` where `Tensor comb` was"),
        ("npu_hc_post", "Tensor out", "(Tensor out, Tensor more)", "returns have also `Tensor more`"),
        ("inplace_partial_rotary_mul", "Tensor(a!) x", "Tensor x", "`Tensor x` where `Tensor(!) x` was"),
        ("inplace_partial_rotary_mul", ", int[] partial_slice", "", "have no `List[int] partial_slice`"),
        ("inplace_partial_rotary_mul", "str rotary_mode", "str rotary_mode='half'", "`str rotary_mode='half'` where"),
    ],
)
def test_what_differs_between_schemas_is_named(operator: str, old: str, new: str, said: str) -> None:
    schema = SCHEMAS[operator]
    assert old in schema
    wanted, found = (torch._C.parse_schema(text) for text in (schema, schema.replace(old, new)))
    assert said in difference(wanted, found)
    assert not difference(wanted, wanted)


def test_another_schema_is_refused_and_so_is_an_operator_that_is_missing() -> None:
    other = SCHEMAS["npu_hc_post"].replace("Tensor comb)", "Tensor comb, int more=0)")
    found = _declared("npu_hc_post", other, "inplace_partial_rotary_mul", "")
    reason = "arguments have also `int more=0`; its kernel was written for another vllm-ascend"
    assert found["npu_hc_post"]["reason"] == f"npu_hc_post: {reason}"
    assert found["inplace_partial_rotary_mul"]["reason"].endswith("vllm-ascend is not installed")
    assert {(line["code"], line["ran"]) for line in found.values()} == {("version", 0)}


def test_without_the_package_every_call_is_refused() -> None:
    for operator in SCHEMAS:
        answer = offers(operator)
        assert (answer.code, answer.reason) == ("version", f"{operator}: vllm-ascend is not installed")


def test_they_are_asked_before_torch_npus() -> None:
    listed = [k.name for k in kernels_for("A2", {})]
    assert listed.index("inplace_partial_rotary_mul") < listed.index("npu_rotary_mul")
    assert listed.index("npu_hc_post") < listed.index("npu_mhc_post")


LOADS = """
import os, sys
from deepport_npu.vllm_ascend import load, offers
print(offers("npu_hc_post").reason)
load()
print(offers("npu_hc_post").reason)
print(os.environ.get("ASCEND_CUSTOM_OPP_PATH"))
print("vllm_ascend" in sys.modules)
"""


def _package(folder: Path, library: str) -> None:
    package = folder / "vllm_ascend"
    (package / "_cann_ops_custom" / "vendors" / "custom_transformer").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    found = package / "vllm_ascend_C.cpython-311-x86_64-linux-gnu.so"
    if library:
        subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", found], input=library, text=True, check=True)
    else:
        found.write_text("no library")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_the_library_is_loaded_without_its_package(tmp_path: Path) -> None:
    _package(
        tmp_path,
        '#include <stdio.h>\n__attribute__((constructor)) static void f(void) { puts("registered"); fflush(stdout); }',
    )
    before, called, after, path, imported = _python(
        "-u", "-c", LOADS, PYTHONPATH=str(tmp_path), ASCEND_CUSTOM_OPP_PATH="/another"
    ).splitlines()
    assert before == "npu_hc_post: vllm-ascend is loaded when the backend starts"
    assert called == "registered"
    assert after == "npu_hc_post: the installed vllm-ascend has none"
    assert path == f"{tmp_path}/vllm_ascend/_cann_ops_custom/vendors/custom_transformer:/another"
    assert imported == "False"


def test_a_library_that_cannot_be_loaded_is_a_reason(tmp_path: Path) -> None:
    _package(tmp_path, "")
    said = _python("-c", LOADS, PYTHONPATH=str(tmp_path))
    assert "npu_hc_post: vllm-ascend's library cannot be loaded" in said
