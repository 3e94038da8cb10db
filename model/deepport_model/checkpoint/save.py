"""Write a checkpoint: safetensors, index and config.json, in a new directory that then takes the old one's place."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deepport import formats
from deepport.errors import BadInput, DeepportError
from deepport_model.checkpoint.config import CONFIG, write_config
from deepport_model.checkpoint.directory import INDEX, SINGLE
from deepport_model.checkpoint.files import write_file
from deepport_model.checkpoint.names import Naming, spell
from deepport_model.checkpoint.plan import FORMAT_KEY
from deepport_model.checkpoint.text import read_object
from deepport_model.config import Config

_WRITER = "written_by"
_TOKENIZER = "tokenizer.json"
_SHARD = "model-{:05}-of-{:05}.safetensors"
_OURS = re.compile(
    "|".join((*map(re.escape, (CONFIG, SINGLE, INDEX, _TOKENIZER)), r"model-[0-9]{5}-of-[0-9]{5}\.safetensors"))
)


def save_weights(
    model: nn.Module,
    config: Config,
    directory: str | Path,
    *,
    naming: Naming = "deepseek",
    shard_bytes: int = 5_000_000_000,
    tokenizer: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `model` and `config` to `directory`, which is new, empty, or a checkpoint written by this function.

    Tensors are written as they are, quantised or plain, one piece at a time. Until all is on the disk an old checkpoint
    stays as it is.

    Args:
        naming: of the tensors, and the spelling of config.json.
        shard_bytes: the most that one file holds, but for a tensor that is larger than that.
        tokenizer: a tokenizer.json to copy into the directory.
        progress: is called with the bytes written so far and in all.

    Raises:
        BadInput: the directory holds something else, or the spelling cannot say what `config` says.
        DeepportError: the disk is full, or cannot be written.
    """
    directory = Path(directory).resolve()
    _check_ours(directory)
    if tokenizer is not None and not Path(tokenizer).is_file():
        raise BadInput(f"{tokenizer}: is not a file; give the tokenizer.json to copy")
    shards = _shards(_tensors(model, naming), shard_bytes)
    total = sum(t.numel() * t.element_size() for shard in shards for t in shard.values())
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    with _replacing(directory) as fresh:
        write_config(config, fresh, naming, {_WRITER: "deepport", **_quantization(model)})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, fresh / _TOKENIZER)
        _write_shards(fresh, shards, _formats(model), total, written)


def _check_ours(directory: Path) -> None:
    """Refuse to replace a directory that holds anything but a checkpoint of ours."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise BadInput(f"{directory}: is a file; give a directory to write to")
    names = sorted(path.name for path in directory.iterdir())
    if foreign := [name for name in names if not _OURS.fullmatch(name)]:
        raise BadInput(f"{directory}: holds {foreign[0]}, which a checkpoint would replace; give an empty directory")
    if names and (CONFIG not in names or read_object(directory / CONFIG).get(_WRITER) != "deepport"):
        raise BadInput(f"{directory}: holds a checkpoint that deepport did not write; give an empty directory")


def _tensors(model: nn.Module, naming: Naming) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the files by name: views of the model's own."""
    for target, tensor in model.state_dict().items():
        for name, where in spell(target, naming, tensor.shape[0] if tensor.ndim else 0):
            yield name, where.view(tensor)


def _shards(tensors: Iterator[tuple[str, Tensor]], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and size > room:
            shards.append({})
            room = limit
        shards[-1][name] = tensor
        room -= size
    return shards


def _write_shards(
    directory: Path, shards: list[dict[str, Tensor]], stated: dict[str, str], total: int, written: Callable[[int], None]
) -> None:
    # "format" is what transformers looks for; ours keeps the blocks, which shapes alone do not always tell.
    metadata = {"format": "pt", **{FORMAT_KEY + owner: format for owner, format in stated.items()}}
    if len(shards) == 1:
        write_file(directory / SINGLE, shards[0], metadata, written)
        return
    files = {_SHARD.format(i, len(shards)): shard for i, shard in enumerate(shards, 1)}
    for file, shard in files.items():
        write_file(directory / file, shard, metadata, written)
    index = {"metadata": {"total_size": total}, "weight_map": {n: file for file, shard in files.items() for n in shard}}
    (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))


def _formats(model: nn.Module) -> dict[str, str]:
    """The formats of quantised modules, by name."""
    found = ((name, getattr(module, "format", formats.PLAIN)) for name, module in model.named_modules())
    return {name: format for name, format in found if format != formats.PLAIN}


def _quantization(model: nn.Module) -> dict[str, Any]:
    """How DeepSeek's config.json says that weights are FP8, so that other readers know; they have no other format to name."""
    blocks = [f for f in map(formats.parse, _formats(model).values()) if f.element == "fp8_e4m3"]
    if not blocks:
        return {}
    largest = max(blocks, key=lambda f: f.rows * f.columns)
    block = [largest.rows, largest.columns]
    method = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}
    experts = {"expert_dtype": "fp4"} if "mxfp4" in _formats(model).values() else {}
    return {"quantization_config": {**method, **experts}}


@contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """A new directory that takes the place of `directory` when the block is left without an error, and else is removed."""
    fresh = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.new")
    old = fresh.with_suffix(".old")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        for path in (*fresh.iterdir(), fresh):
            _sync(path)
        _swap(fresh, directory, old)
        _sync(directory.parent)
    except OSError as error:
        raise DeepportError(f"{directory}: cannot be written: {error.strerror}; what was there is unchanged") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _swap(fresh: Path, directory: Path, old: Path) -> None:
    """Move `directory` aside and `fresh` in, or put things back as they were."""
    try:
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
    except BaseException:
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise


def _sync(path: Path) -> None:
    """Wait until the disk has a file or directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
