"""Files: what is not exactly a safetensors file is refused in one line, and the safetensors library agrees on the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepport.errors import BadInput
from deepport_model.checkpoint.directory import open_files
from deepport_model.checkpoint.files import DTYPES, read_header, write_file

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "I8", "shape": [3, 1], "data_offsets": [8, 11]}


def file(path: Path, header: Any, data: int = 11, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def message(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_header(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_the_library_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    tensors = {
        name.lower(): torch.arange(6).view(2, 3).to(torch.uint8 if dtype.itemsize == 1 else dtype).view(dtype)
        for name, dtype in DTYPES.items()
        if dtype != torch.bool
    }
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 4), "strided": torch.arange(6.0).view(2, 3).T}
    counts: list[int] = []
    write_file(tmp_path / "ours", tensors, {"format": "pt"}, counts.append)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    assert sum(counts) == sum(t.numel() * t.element_size() for t in tensors.values())
    for path in (tmp_path / "ours", tmp_path / "theirs"):
        library, (stored, _) = load_file(path), read_header(path)
        assert set(library) == set(stored) == set(tensors)
        for name, tensor in tensors.items():
            ours = torch.empty(stored[name].shape, dtype=stored[name].dtype)
            stored[name].fill(ours.view(-1), 0)
            for found in (ours, library[name]):
                assert same_bytes(found, tensor), name


def same_bytes(a: Tensor, b: Tensor) -> bool:
    flat = [t.contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ({"a": {**A, "x": 1}}, "header: tensor 'a' is not described by exactly dtype, shape and data_offsets"),
        ({"a": 3}, "header: tensor 'a' is not described by exactly dtype, shape and data_offsets"),
        ({"a": {**A, "dtype": "F4"}}, f"header: tensor 'a' has dtype 'F4'; there are: {', '.join(DTYPES)}"),
        ({"a": {**A, "dtype": []}}, f"header: tensor 'a' has dtype []; there are: {', '.join(DTYPES)}"),
        ({"a": {**A, "shape": [-2]}}, "header: tensor 'a' has a shape that is not a list of non-negative integers"),
        ({"a": {**A, "shape": [True]}}, "header: tensor 'a' has a shape that is not a list of non-negative integers"),
        ({"a": {**A, "shape": [2**70]}}, "header: tensor 'a' has a shape that is not a list of non-negative integers"),
        (
            {"a": {**A, "data_offsets": 8}},
            "header: tensor 'a' has a data_offsets that is not a list of non-negative integers",
        ),
        ({"a": {**A, "data_offsets": []}}, "header: tensor 'a' F32 [2] has 8 bytes, but its data_offsets are []"),
        (
            {"a": {**A, "data_offsets": [0, 9]}},
            "header: tensor 'a' F32 [2] has 8 bytes, but its data_offsets are [0, 9]",
        ),
        (
            {"a": {**A, "data_offsets": [8, 0]}},
            "header: tensor 'a' F32 [2] has 8 bytes, but its data_offsets are [8, 0]",
        ),
        ({"a": A, "b": {**B, "data_offsets": [7, 10]}}, "header: tensor 'b' overlaps the one before it"),
        ({"a": A, "b": {**B, "data_offsets": [9, 12]}}, "header: tensor 'b' leaves a gap after the one before it"),
        ({"b": {**B, "data_offsets": [2, 5]}}, "header: tensor 'b' leaves a gap after the one before it"),
        ({"a": A}, "is truncated or damaged: its tensors need 8 bytes, the file has 11"),
        ({"a": A, "b": B, "__metadata__": {"x": 1}}, "header: __metadata__ is not an object of strings"),
        ([], "header: is not a JSON object"),
        (b'{"a":', "header: is not JSON: Expecting value: line 1 column 6 (char 5)"),
        (b"\xff\xfe", "header: is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b'{"a": {}, "a": {}}', "header: is not JSON: a key is repeated"),
    ],
)
def test_bad_headers(tmp_path: Path, header: Any, line: str) -> None:
    assert message(file(tmp_path / "x", header)) == line


def test_truncated(tmp_path: Path) -> None:
    path = file(tmp_path / "x", {"a": A, "b": B}, data=10)
    assert message(path) == "is truncated or damaged: its tensors need 11 bytes, the file has 10"
    path.write_bytes(path.read_bytes()[:50])
    assert message(path) == "is truncated or no safetensors file: its header does not fit in 50 bytes"
    path.write_bytes(b"abc")
    assert message(path) == "is truncated or no safetensors file: its header does not fit in 3 bytes"
    assert (
        message(file(path, b"{}", length=2**63))
        == "is truncated or no safetensors file: its header does not fit in 21 bytes"
    )
    assert message(tmp_path / "none") == "cannot be read: No such file or directory"


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = file(tmp_path / "x", {"a": A, "b": B})
    stored = read_header(path)[0]["b"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput) as caught:
        stored.fill(torch.empty(3, dtype=torch.int8), 0)
    assert str(caught.value) == f"{path}: ended while b was read; something is changing the file"


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_never_yields_anything_but_bad_input(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes replaced, removed or added: the file is refused, or the library takes it too."""
    path = tmp_path / "x"
    save_file({"a": torch.ones(3, 2), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.ones(2).long()}, path)
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1))
        text[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(text)
    try:
        tensors = read_header(path)[0]
    except BadInput as error:
        tensors = {}
        lines = str(error).splitlines()
        assert len(lines) == 1
    if tensors:
        assert set(load_file(path)) == set(tensors)
    for stored in tensors.values():
        stored.fill(torch.empty(stored.shape, dtype=stored.dtype).view(-1), 0)


def opened(directory: Path) -> str:
    with pytest.raises(BadInput) as caught:
        open_files(directory)
    return str(caught.value).removeprefix(f"{directory}")


def sharded(directory: Path, index: dict[str, Any], **files: dict[str, Tensor]) -> Path:
    for name, tensors in files.items():
        save_file(tensors, directory / f"{name}.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return directory


def test_shards(tmp_path: Path) -> None:
    one, two = {"a": torch.ones(2)}, {"b": torch.zeros(3)}
    found = open_files(sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one=one, two=two))
    assert {name: stored.path.name for name, stored in found.tensors.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }


INDEX = "/model.safetensors.index.json: "


@pytest.mark.parametrize(
    ("index", "line"),
    [
        ({}, f"{INDEX}has no weight_map of tensor names to file names"),
        ([], f"{INDEX}has no weight_map of tensor names to file names"),
        ({"a": "../one.safetensors"},
         f"{INDEX}names the file '../one.safetensors'; only safetensors files in the same directory are read"),
        ({"a": "/etc/passwd"}, f"{INDEX}names the file '/etc/passwd'; only safetensors files in the same directory are read"),
        ({"a": 3}, f"{INDEX}names the file 3; only safetensors files in the same directory are read"),
        ({"a": "no.safetensors"}, "/no.safetensors: cannot be read: No such file or directory"),
        ({"a": "two.safetensors"}, f"{INDEX}says that 'b' is in None, but two.safetensors holds it"),
        ({"a": "one.safetensors", "b": "one.safetensors"},
         f"{INDEX}says that 'b' is in one.safetensors, which does not hold it"),
        ({"b": "two.safetensors", "a": "three.safetensors"},
         f"{INDEX}says that 'b' is in two.safetensors, but three.safetensors holds it"),
    ],
)  # fmt: skip
def test_bad_indices(tmp_path: Path, index: Any, line: str) -> None:
    a, b = torch.ones(2), torch.zeros(3)
    assert opened(sharded(tmp_path, index, one={"a": a}, two={"b": b}, three={"a": a, "b": b})) == line


def test_directories(tmp_path: Path) -> None:
    assert opened(tmp_path) == ": holds neither model.safetensors nor model.safetensors.index.json"
    (tmp_path / "pytorch_model.bin").touch()
    assert opened(tmp_path) == (
        ": holds only pickles (pytorch_model.bin), which can run code and are refused; convert them to safetensors"
    )
    (tmp_path / "pytorch_model.bin").unlink()
    save_file({"a": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    assert opened(tmp_path) == (
        ": holds safetensors files but no model.safetensors.index.json, so they may be incomplete; fetch the index"
    )
    sharded(tmp_path, {"a": "model.safetensors"}, model={"a": torch.ones(1)})
    assert opened(tmp_path) == (
        ": holds both model.safetensors and model.safetensors.index.json; remove the one that is not meant"
    )
    assert opened(tmp_path / "x") == (
        ": is not a directory; give the one that holds config.json and the safetensors files"
    )
