"""Files of tensors in the safetensors format: checked, read and written without a second copy in memory.

A file is a little-endian uint64 length, that many bytes of JSON, and the tensors' bytes without gaps. The header is checked
here before anything in it is believed. Tensors are read straight into their destination: the library maps files instead,
whose pages count as this process's memory while they are read (measured: twice the weights), and die by a signal, not
an error, where a file shrinks.
Source: https://github.com/huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepport.errors import BadInput
from deepport_model.checkpoint.text import parse_object

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # the library's own limit
CHUNK = 1 << 22
"""Elements that are read, converted or written at a time."""


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: its bytes begin at `offset`."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def fill(self, out: Tensor, start: int) -> None:
        """Read the elements from `start` on into `out`, a contiguous host tensor of this dtype."""
        target = out.view(torch.uint8).numpy().data
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + start * self.dtype.itemsize)
                while target and (read := file.readinto(target)):
                    target = target[read:]
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read: {error.strerror}") from error
        if target:
            raise BadInput(f"{self.path}: ended while {self.name} was read; something is changing the file")


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a file by name, and its metadata; BadInput for whatever is not exactly a safetensors file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_LONGEST_HEADER, size - 8):
                raise BadInput(f"{path}: is truncated or no safetensors file: its header does not fit in {size} bytes")
            text = file.read(length)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    header = parse_object(text, f"{path}: header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadInput(f"{path}: header: __metadata__ is not an object of strings")
    spans = [(_parse(path, name, entry, 8 + length), entry["data_offsets"]) for name, entry in header.items()]
    _check_spans(path, spans, size - 8 - length)
    return {stored.name: stored for stored, _ in spans}, metadata


def _parse(path: Path, name: str, entry: Any, data: int) -> Stored:
    where = f"{path}: header: tensor {name!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadInput(f"{where} is not described by exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadInput(f"{where} has dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    for key, value in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(value, list) or not all(type(i) is int and 0 <= i < 2**63 for i in value):
            raise BadInput(f"{where} has a {key} that is not a list of non-negative integers")
    stored = Stored(path, name, DTYPES[dtype], tuple(shape), data + offsets[0] if offsets else data)
    if len(offsets) != 2 or offsets[1] - offsets[0] != stored.nbytes:
        raise BadInput(f"{where} {dtype} {shape} has {stored.nbytes} bytes, but its data_offsets are {offsets}")
    return stored


def _check_spans(path: Path, spans: Sequence[tuple[Stored, list[int]]], size: int) -> None:
    """Tensors must follow each other without a gap or an overlap, and end where the file ends."""
    end = 0
    for stored, (start, stop) in sorted(spans, key=lambda span: span[1]):
        if start != end:
            kind = "overlaps" if start < end else "leaves a gap after"
            raise BadInput(f"{path}: header: tensor {stored.name!r} {kind} the one before it")
        end = stop
    if end != size:
        raise BadInput(f"{path}: is truncated or damaged: its tensors need {end} bytes, the file has {size}")


def write_file(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], written: Callable[[int], None]
) -> None:
    """Write `tensors`, one piece at a time, and wait until the disk has them; `written` is told the bytes of each piece."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    # Wide elements first, so that every tensor is aligned to its elements.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    for name, tensor in ordered:
        stop = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            for piece in tensor.detach().reshape(-1).split(CHUNK):
                file.write(piece.cpu().view(torch.uint8).numpy().data)
                written(piece.numel() * piece.element_size())
        file.flush()
        os.fsync(file.fileno())
