"""Messages between the suite's processes: one JSON object and the tensors that go with it. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.gates import bits

Message = dict[str, Any]


def send(to: Connection, message: Message, frames: Sequence[bytes] = ()) -> None:
    """Send a message and the bytes that go with it."""
    to.send_bytes(json.dumps({**message, "frames": len(frames)}).encode())
    for frame in frames:
        to.send_bytes(frame)


def receive(source: Connection) -> tuple[Message, list[bytes]]:
    """The next message and its bytes. EOFError where the other side has gone."""
    message: Message = json.loads(source.recv_bytes())
    return message, [source.recv_bytes() for _ in range(message.pop("frames"))]


def packed(tensors: Sequence[Tensor]) -> tuple[list[Message], list[bytes]]:
    """What a message says of tensors, and their bytes."""
    heads = [{"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for t in tensors]
    return heads, [bits(t).numpy().tobytes() for t in tensors]


def unpacked(heads: Sequence[Message], frames: Sequence[bytes]) -> list[Tensor]:
    return [_tensor(head, frame) for head, frame in zip(heads, frames, strict=True)]


def _tensor(head: Message, frame: bytes) -> Tensor:
    dtype: torch.dtype = getattr(torch, head["dtype"])
    if not frame:
        return torch.empty(head["shape"], dtype=dtype)
    return torch.frombuffer(bytearray(frame), dtype=torch.uint8).view(dtype).view(head["shape"])
