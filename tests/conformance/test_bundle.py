"""Bundles come back as they were written, are refused when they are not whole, and fail again."""

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import FAULTY, HONEST, acme
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepport import ops
from deepport.backend import start
from deepport.conformance import bundle, stored
from deepport.conformance.bundle import Bundle
from deepport.conformance.gates import bits
from deepport.conformance.judge import judge
from deepport.conformance.oracle import Truth, outputs, truth
from deepport.conformance.rerun import rerun
from deepport.conformance.result import CaseKey, Gate
from deepport.errors import BackendUnavailable, BadInput
from deepport.op import Operator, operators

Distribution = Callable[..., Path]


def recorded(operator: Operator[..., Any], implementation: str, arguments: dict[str, Any]) -> Bundle:
    """A bundle of what the implementation makes of these arguments."""
    name, _, called = implementation.partition("/")
    kernels = start(name).kernels.get(operator.name, []) if called else []
    run = next((k.run for k in kernels if k.name == called), operator.reference)
    found = truth(operator, arguments)
    got = outputs(operator, run, arguments)
    gates = tuple(judge(operator, arguments, got, found))
    return Bundle(operator.name, name if called else "cpu", implementation, arguments, found, got, gates)


def norm_arguments() -> dict[str, Any]:
    return {"x": torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), "weight": None, "eps": 1e-6}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    bundle.write(folder, recorded(ops.rms_norm, "reference", norm_arguments()))
    return folder


def same(a: Tensor, b: Tensor) -> bool:
    return (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()) and torch.equal(bits(a), bits(b))


# round trips


@pytest.mark.parametrize("name", stored.DTYPES)
def test_every_dtype_comes_back(name: str) -> None:
    dtype = stored.DTYPES[name]
    raw = torch.arange(24 * dtype.itemsize, dtype=torch.int64).remainder(2 if name == "bool" else 256).to(torch.uint8)
    tensor = raw.view(dtype).view(4, 6)
    for view in (tensor, tensor.T, tensor[:, 1:4], tensor[1:2, :0], tensor[0, 0]):
        assert same(returned(view), view)


def returned(value: Any) -> Any:
    tensors: dict[str, Tensor] = {}
    put = stored.put("x", value, tensors)
    again = type(put).model_validate_json(put.model_dump_json())
    stored.check(stored.listed(again), tensors)
    return stored.get(again, tensors)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    stride=st.lists(st.integers(0, 7), min_size=4, max_size=4),
)
def test_every_layout_comes_back(shape: list[int], stride: list[int]) -> None:
    """Gaps, and rows that share memory, too."""
    tensor = torch.arange(200).as_strided(shape, stride[: len(shape)], 3)
    assert same(returned(tensor), tensor)


@pytest.mark.parametrize("value", [None, True, 0, -(2**62), "half", 1e-6, math.inf, -math.inf, torch.bfloat16, []])
def test_every_scalar_comes_back(value: Any) -> None:
    assert returned(value) == value
    assert type(returned(value)) is type(value)


def test_nan_and_lists_come_back() -> None:
    assert math.isnan(returned(math.nan))
    first, second = returned([None, torch.ones(2, 3).T])
    assert first is None and second.stride() == (1, 3)


def every_operator() -> Iterator[Any]:
    for name in ops.__all__:
        operator = getattr(ops, name)
        if isinstance(operator, Operator):
            *_, last = (c for c in operator.cases if not c.raises)
            yield pytest.param(operator, last.arguments(), id=name)


@pytest.mark.parametrize(("operator", "arguments"), list(every_operator()))
def test_every_operators_call_runs_again(
    operator: Operator[..., Any], arguments: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {n: arguments.get(n, operator.defaults.get(n)) for n in operator.parameters}
    wrote = recorded(operator, "reference", arguments)
    bundle.write(tmp_path / "b", wrote)
    found = bundle.read(tmp_path / "b")
    assert list(found.arguments) == list(operator.parameters)
    for mine, theirs in zip((*wrote.expected.oracle, *wrote.got), (*found.expected.oracle, *found.got), strict=True):
        assert same(mine, theirs)
    again = rerun(tmp_path / "b")
    assert again.passes and again.changed == ()
    assert again.implementation == "reference"
    numeric = [g for g in again.gates if g.gate not in ("G1", "G5")]
    assert {g.status for g in numeric} <= {"not applicable"}, "the reference is the definition"


def test_a_gradients_call_runs_again(tmp_path: Path) -> None:
    backward = operators["swiglu_backward"]
    gate = torch.randn(3, 4)
    arguments = {"grads": [gate.flip(0)], "output_mask": [True, False], "gate": gate, "up": gate.flip(1), "limit": None}
    bundle.write(tmp_path / "b", recorded(backward, "reference", arguments))
    assert bundle.read(tmp_path / "b").arguments["output_mask"] == [True, False]
    assert rerun(tmp_path / "b").passes


def test_what_is_not_a_tensor_comes_back(tmp_path: Path) -> None:
    wrote = recorded(ops.rms_norm, "reference", norm_arguments())
    key = CaseKey(grid="generated", label="x", builder="b", parameters={"shape": [1, 2]})
    gate = Gate(gate="G2", metric="rms", status="fail", value=math.nan, bound=math.inf)
    full = Bundle(**{**vars(wrote), "case": key, "gates": (gate,), "call": 7, "site": "layers.3.attn"})
    bundle.write(tmp_path / "b", full)
    found = bundle.read(tmp_path / "b")
    assert (found.case, found.call, found.site, found.backend) == (key, 7, "layers.3.attn", "cpu")
    assert math.isnan(found.gates[0].value or 0.0) and found.gates[0].bound == math.inf
    assert found.environment["torch"] and found.spec_hash.startswith("sha256:")
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["command"] == f"deepport repro {tmp_path / 'b'}"


# writing


def test_a_bundle_is_replaced_and_nothing_else_is(tmp_path: Path, written: Path) -> None:
    other = recorded(ops.rms_norm, "reference", norm_arguments() | {"eps": 0.5})
    bundle.write(written, other)
    assert bundle.read(written).arguments["eps"] == 0.5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(BadInput, match="exists and is no bundle"):
            bundle.write(tmp_path / name, other)
    assert {p.name for p in tmp_path.iterdir()} == {"bundle", "mine", "file"}


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        bundle.write(tmp_path / "b", recorded(ops.rms_norm, "reference", norm_arguments()))
    assert not list(tmp_path.iterdir())


def test_too_large_a_call_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "LARGEST", 1000)
    with pytest.raises(BadInput, match=r"the tensors take 1.6e-06 GB; a bundle holds at most 1e-06 GB"):
        bundle.write(tmp_path / "b", recorded(ops.rms_norm, "reference", norm_arguments()))
    assert not list(tmp_path.iterdir())


# hostile files


def changed(folder: Path, **fields: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def changed_argument(folder: Path, **fields: Any) -> None:
    path = folder / "bundle.json"
    head = json.loads(path.read_text())
    head["arguments"]["x"] |= fields
    path.write_text(json.dumps(head))


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no such folder": (lambda f: shutil.rmtree(f), "there is no bundle.json"),
    "no tensors": (lambda f: (f / "tensors.safetensors").unlink(), "there is no tensors.safetensors"),
    "a link": (
        lambda f: ((f / "x").write_text("{}"), (f / "bundle.json").unlink(), (f / "bundle.json").symlink_to(f / "x")),
        "there is no bundle.json",
    ),
    "truncated JSON": (
        lambda f: (f / "bundle.json").write_bytes((f / "bundle.json").read_bytes()[:200]),
        "the file: Invalid JSON",
    ),
    "truncated tensors": (
        lambda f: (f / "tensors.safetensors").write_bytes((f / "tensors.safetensors").read_bytes()[:-9]),
        "tensors.safetensors: ",
    ),
    "no header": (lambda f: (f / "tensors.safetensors").write_bytes(b"\xff" * 64), "tensors.safetensors: "),
    "not JSON": (lambda f: (f / "bundle.json").write_bytes(b"\x80\x04pickle"), "the file: Invalid JSON"),
    "deep JSON": (lambda f: (f / "bundle.json").write_text("[" * 100_000), "the file: Invalid JSON"),
    "too much JSON": (lambda f: (f / "bundle.json").write_bytes(b" " * (9 << 20)), "more than 8,388,608 bytes"),
    "another version": (lambda f: changed(f, format="deepport.bundle/9"), "format: Input should be"),
    "an unknown field": (lambda f: changed(f, extra=1), "extra: Extra inputs are not permitted"),
    "an unknown operator": (lambda f: changed(f, operator="../../etc/passwd"), "no operator is called"),
    "arguments of another": (lambda f: changed(f, operator="swiglu"), "swiglu takes gate, up, limit, not"),
    "no yardstick": (lambda f: changed(f, yardstick={"kind": "list", "items": []}), "not the outputs of one call"),
    "an output of text": (
        lambda f: changed(f, got={"kind": "list", "items": [{"kind": "scalar", "value": "x"}]}),
        "an output is not a tensor",
    ),
    "a wrong dtype": (lambda f: changed_argument(f, dtype="load"), "no dtype is called 'load'"),
    "a path for a name": (lambda f: changed_argument(f, name="../../etc/passwd"), "'../../etc/passwd' is missing"),
    "another's name": (lambda f: changed_argument(f, name="got.0"), "two tensors have one name"),
    "a huge shape": (lambda f: changed_argument(f, shape=[1 << 39, 1 << 39]), "a bundle holds at most"),
    "an endless shape": (lambda f: changed_argument(f, shape=[1] * 1000), "at most 16 items"),
    "a huge stride": (lambda f: changed_argument(f, stride=[1 << 39, 1]), "a bundle holds at most"),
    "a negative stride": (lambda f: changed_argument(f, stride=[-1, 1]), "greater than or equal to 0"),
    "a shape of text": (lambda f: changed_argument(f, shape=["5", 16]), "valid integer"),
    "too short a stride": (lambda f: changed_argument(f, stride=[1]), "not as many dimensions"),
    "another shape": (lambda f: changed_argument(f, shape=[5, 17], stride=[17, 1]), "not 340 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_with_a_bundle_is_said_in_one_line(case: str, written: Path) -> None:
    spoil, told = HOSTILE[case]
    spoil(written)
    with pytest.raises(BadInput) as refused:
        bundle.read(written)
    assert told in str(refused.value) and str(written) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tensor_that_is_no_bytes_is_refused(written: Path) -> None:
    tensors = load_file(written / "tensors.safetensors")
    save_file(tensors | {"argument.x": torch.zeros(5, 16)}, written / "tensors.safetensors")
    with pytest.raises(BadInput, match=r"'argument.x' is \(5, 16\) torch.float32, not 320 bytes"):
        bundle.read(written)


# running again


def test_a_wrong_kernel_fails_again_and_another_backend_does_not(install: Distribution, tmp_path: Path) -> None:
    install("acme", acme(FAULTY["bf16 sums"], HONEST["rms_norm"]))
    arguments = {"x": torch.randn(4, 64), "w": torch.randn(8, 64), "scale": None, "format": "plain", "wide": False}
    bundle.write(tmp_path / "b", recorded(ops.linear, "acme/fast", arguments))
    again = rerun(tmp_path / "b")
    assert again.implementation == "acme/fast" and not again.passes
    assert {g.gate for g in again.gates if g.status == "fail"} >= {"G2"}
    other = rerun(tmp_path / "b", "cpu")
    assert other.passes and other.implementation == "cpu/native"
    assert other.changed == ("acme/fast was recorded",)


def test_a_stale_output_shows_because_another_call_comes_first(install: Distribution, tmp_path: Path) -> None:
    install("acme", acme(FAULTY["stale"]))
    bundle.write(tmp_path / "b", recorded(ops.rms_norm, "acme/fast", norm_arguments()))
    sys.modules["deepport_acme"]._last.clear()  # as in a new process
    again = rerun(tmp_path / "b")
    assert {g.gate for g in again.gates if g.status == "fail"} >= {"G2"}


def test_an_honest_kernel_passes_again(install: Distribution, tmp_path: Path) -> None:
    install("acme", acme(HONEST["rms_norm"]))
    bundle.write(tmp_path / "b", recorded(ops.rms_norm, "acme/fast", norm_arguments()))
    again = rerun(tmp_path / "b")
    assert again.passes, again.gates
    assert {g.status for g in again.gates} == {"pass"}


def test_a_kernel_that_is_gone_is_said_to_be(install: Distribution, tmp_path: Path) -> None:
    install("acme", acme(FAULTY["stale"]))
    bundle.write(tmp_path / "b", recorded(ops.rms_norm, "acme/fast", norm_arguments()))
    changed(tmp_path / "b", implementation="acme/slow")
    with pytest.raises(
        BackendUnavailable, match="rms_norm: the acme backend that is installed has no kernel called 'slow'"
    ):
        rerun(tmp_path / "b")
    changed(tmp_path / "b", implementation="nobody/fast")
    with pytest.raises(BackendUnavailable, match="no backend is called 'nobody'"):
        rerun(tmp_path / "b")


def test_expected_values_are_the_recorded_ones(written: Path) -> None:
    """A bundle is judged by what it was found wrong with, also where plain torch rounds otherwise."""
    found = bundle.read(written)
    assert isinstance(found.expected, Truth)
    assert found.expected.oracle[0].dtype == torch.float64
