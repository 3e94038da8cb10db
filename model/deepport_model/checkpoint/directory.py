"""The safetensors files of a checkpoint: one `model.safetensors`, or the shards that `model.safetensors.index.json` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepport.errors import BadInput
from deepport_model.checkpoint.files import Stored, read_header
from deepport_model.checkpoint.text import read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True)
class Files:
    """The tensors of a checkpoint by the names its files use, and the files' metadata."""

    directory: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str]


def open_files(directory: str | Path) -> Files:
    """Check the headers of a checkpoint's files; no tensor is read."""
    directory = Path(directory)
    if not directory.is_dir():
        raise BadInput(
            f"{directory}: is not a directory; give the one that holds config.json and the safetensors files"
        )
    single, index = (directory / SINGLE).exists(), (directory / INDEX).exists()
    if single and index:
        raise BadInput(f"{directory}: holds both {SINGLE} and {INDEX}; remove the one that is not meant")
    if single:
        return Files(directory, *read_header(directory / SINGLE))
    if index:
        return _sharded(directory)
    raise BadInput(_nothing(directory))


def _nothing(directory: Path) -> str:
    if pickles := sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES):
        return f"{directory}: holds only pickles ({pickles[0]}), which can run code and are refused; convert them to safetensors"
    if any(directory.glob("*.safetensors")):
        return f"{directory}: holds safetensors files but no {INDEX}, so they may be incomplete; fetch the index"
    return f"{directory}: holds neither {SINGLE} nor {INDEX}"


def _sharded(directory: Path) -> Files:
    where = directory / INDEX
    shards = read_object(where).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BadInput(f"{where}: has no weight_map of tensor names to file names")
    for file in shards.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file or "\0" in file:
            raise BadInput(f"{where}: names the file {file!r}; only safetensors files in the same directory are read")
    found = Files(directory, {}, {})
    for file in sorted(set(shards.values())):
        tensors, metadata = read_header(directory / file)
        for name in tensors:
            if shards.get(name) != file:
                raise BadInput(f"{where}: says that {name!r} is in {shards.get(name)}, but {file} holds it")
        found.tensors.update(tensors)
        found.metadata.update(metadata)
    if absent := sorted(set(shards) - set(found.tensors)):
        raise BadInput(f"{where}: says that {absent[0]!r} is in {shards[absent[0]]}, which does not hold it")
    return found
