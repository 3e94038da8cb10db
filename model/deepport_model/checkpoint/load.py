"""Fill a model from a checkpoint: checked first, then read tensor by tensor into its place, and assigned all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deepport.errors import BadInput
from deepport.pages import well_placed
from deepport.runtime import HostRuntime
from deepport_model.checkpoint.config import read_block_hint
from deepport_model.checkpoint.directory import open_files
from deepport_model.checkpoint.files import CHUNK, Stored
from deepport_model.checkpoint.plan import Item, Plan, make_plan

Device = str | torch.device
Free = int | Callable[[torch.device], int | None]
Progress = Callable[[int, int], None]
_NAN_CODES = {
    torch.float8_e4m3fn: (0x7F, 0xFF),
    torch.float8_e4m3fnuz: (0x80,),
    torch.float8_e8m0fnu: (0xFF,),
}
"""The bytes that mean NaN; none of these formats has an infinity."""


@dataclass(frozen=True)
class Loaded:
    """How many tensors and bytes of a model were filled, and how many of the checkpoint were skipped (MTP layers)."""

    tensors: int
    nbytes: int
    skipped: int


def host_free(device: torch.device) -> int | None:
    """Bytes free on the host; None, unknown, for any other device."""
    return HostRuntime().memory().free if device.type == "cpu" else None


def load_weights(
    model: nn.Module,
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: Device | Callable[[str], Device] = "cpu",
    free: Free = host_free,
    progress: Progress | None = None,
) -> Loaded:
    """Replace every parameter and persistent buffer of `model`, which may be on the meta device, by a checkpoint's.

    The weights are in memory once: each is allocated where it stays and read into in place. The model is untouched until
    all are read. Quantised weights stay quantised, and their module's `format` says how.

    Args:
        dtype: of plain tensors, but for those that are always float32; None keeps what the files have.
        device: where the tensors go, or a function from a tensor's name to that.
        free: bytes free on the device, or a function from each device to that; None where it is unknown and goes unchecked.
        progress: is called with the bytes read so far and in all.

    Raises:
        BadInput: the files are damaged, do not fit the model or the memory, or hold values that are not finite.
    """
    plan = make_plan(model, open_files(directory), dtype, read_block_hint(directory))
    devices = {i.name: torch.device(device(i.name) if callable(device) else device) for i in plan.items}
    _check_memory(plan, devices, free)
    empty = {i.name: torch.empty(i.shape, dtype=i.dtype, device=devices[i.name]) for i in plan.items}
    tensors = {name: well_placed(tensor) for name, tensor in empty.items()}
    _read_all(plan, tensors, progress or (lambda done, total: None))
    for item in plan.items:
        _check_ids(item, model, tensors[item.name])
    _assign_all(model, plan, tensors)
    return Loaded(len(tensors), sum(item.nbytes for item in plan.items), plan.skipped)


def shape_weights(model: nn.Module, directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Give `model`, on meta, the dtypes and number formats that `load_weights` would, from the files' headers alone."""
    plan = make_plan(model, open_files(directory), dtype, read_block_hint(directory))
    _assign_all(model, plan, {i.name: torch.empty(i.shape, dtype=i.dtype, device="meta") for i in plan.items})


def _check_memory(plan: Plan, devices: dict[str, torch.device], free: Free) -> None:
    needs: Counter[torch.device] = Counter()
    for item in plan.items:
        needs[devices[item.name]] += item.nbytes
    for device, need in needs.items():
        available = free(device) if callable(free) else free
        if available is not None and need > available:
            raise BadInput(f"needs {need / 1e9:.1f} GB on {device}, {available / 1e9:.1f} GB free")


def _read_all(plan: Plan, tensors: dict[str, Tensor], progress: Progress) -> None:
    """Read every source into its place, in the order of the files: disks read best forwards."""
    reads = [(stored, where.view(tensors[i.name])) for i in plan.items for where, stored in i.sources.items()]
    total, done = sum(stored.nbytes for stored, _ in reads), 0
    for stored, target in sorted(reads, key=lambda read: (read[0].path, read[0].offset)):
        _read(stored, target.view(-1))
        done += stored.nbytes
        progress(done, total)


def _read(stored: Stored, target: Tensor) -> None:
    """Fill a flat tensor, piece by piece, with conversion where it is of another dtype or on another device."""
    for start in range(0, target.numel(), CHUNK):
        piece = target[start : start + CHUNK]
        direct = piece.device.type == "cpu" and piece.dtype == stored.dtype
        source = piece if direct else torch.empty(piece.shape, dtype=stored.dtype)
        stored.fill(source, start)
        if not direct:
            source = source.to(piece.dtype)
            piece.copy_(source)
        if not _is_finite(source):
            raise BadInput(f"{stored.path}: {stored.name} has values that are not finite in {piece.dtype}")


def _is_finite(x: Tensor) -> bool:
    if x.dtype in _NAN_CODES:
        codes = x.view(torch.uint8)
        return not any(bool((codes == code).any()) for code in _NAN_CODES[x.dtype])
    return not x.is_floating_point() or bool(x.isfinite().all())


def _check_ids(item: Item, model: nn.Module, ids: Tensor) -> None:
    """Tables of ids are addresses: operators trust them, so they are checked here, once."""
    owner, _, leaf = item.name.rpartition(".")
    if ids.dtype != torch.int64 or not ids.numel():
        return
    routed = leaf == "tid2eid"
    limit = model.get_parameter(f"{owner}.weight").shape[0] if routed else ids.shape[0]
    ids = ids.cpu()  # one copy, where each question would wait for the device
    if ids.min() < 0 or ids.max() >= limit:
        raise BadInput(f"{item.name}: has ids outside 0 ... {limit - 1}")
    if routed and bool((ids.sort(-1).values.diff(dim=-1) == 0).any()):
        raise BadInput(f"{item.name}: sends a token to the same expert twice")


def _assign_all(model: nn.Module, plan: Plan, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        _assign(model, name, tensor)
    for owner, format in plan.formats.items():
        setattr(model.get_submodule(owner), "format", format)  # noqa: B010  # a module's attributes have no types


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    before = getattr(module, leaf, None)
    if before is not None and not isinstance(before, nn.Parameter):
        setattr(module, leaf, tensor)
        return
    learns = tensor.is_floating_point() and tensor.element_size() > 1 and before is not None and before.requires_grad
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=learns))
