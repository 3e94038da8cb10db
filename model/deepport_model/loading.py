"""From a name or a directory to a model on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deepport import backend
from deepport.errors import BadInput
from deepport.pages import well_placed
from deepport.runtime import HostRuntime, current
from deepport.table import PLACEMENTS, Placement
from deepport_model.checkpoint import load_weights, read_config, shape_weights
from deepport_model.config import Config
from deepport_model.engram import EngramTable
from deepport_model.engram_tokens import check_compression, compressed_ids
from deepport_model.model import Model
from deepport_model.presets import DEMO, PRESETS
from deepport_model.tokenizer import Tokenizer
from deepport_model.transformer import Transformer, cast, initialize

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Target:
    """Where a model's tensors go: a started backend's device, and the memory tables where `engram` says."""

    started: backend.Started
    device: torch.device
    engram: Placement

    def place(self, name: str) -> torch.device:
        return torch.device("cpu") if self.engram == "host" and ".engram.table." in name else self.device

    def free(self, device: torch.device) -> int:
        """Bytes free on the host, or on the backend's device."""
        return (HostRuntime() if device.type == "cpu" else self.started.runtime).memory().free


def load(
    path_or_preset: str | Path,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    *,
    engram: Placement = "device",
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """A model from a checkpoint directory, or by the name of a preset: `demo`, `mini`, `mini-engram`, `v4-flash`, `v4-pro`.

    Presets other than `demo` have random weights. `dtype` is None for what the checkpoint holds (float32 for random weights);
    quantised weights stay quantised. `engram` says where memory tables lie (`deepport.table`). `progress(done, total)` counts
    bytes. Raises BackendUnavailable, or BadInput for whatever is wrong with the checkpoint.
    """
    if engram not in PLACEMENTS:
        raise BadInput(f"engram={engram!r}: a table is placed on one of: {', '.join(PLACEMENTS)}")
    wanted, target = _dtype(dtype), _target(device, engram)
    if preset := PRESETS.get(str(path_or_preset)):
        return Model(_random(preset, target, wanted or torch.float32), None, target.started)
    directory = _directory(path_or_preset)
    config = read_config(directory)
    transformer = on_meta(config, engram)
    load_weights(transformer, directory, dtype=wanted, device=target.place, free=target.free, progress=progress)
    # What no checkpoint holds, such as rotary frequencies, was made on the CPU; memories placed on the host stay there.
    return Model(transformer.to(target.device), _tokenizer(directory, config), target.started)


def shaped(path_or_preset: str | Path, dtype: str | torch.dtype | None = None) -> Transformer:
    """What `load` would give, wholly on meta: for planning. Of a checkpoint, only the headers are read."""
    wanted = _dtype(dtype)
    if preset := PRESETS.get(str(path_or_preset)):
        transformer = cast(on_meta(preset), wanted or torch.float32)
    else:
        directory = _directory(path_or_preset)
        transformer = on_meta(read_config(directory))
        shape_weights(transformer, directory, dtype=wanted)
    return transformer.to("meta").eval()


def on_meta(config: Config, engram: Placement = "device") -> Transformer:
    """The model without data: for planning, and to be filled. What the configuration determines is there, on the CPU."""
    with torch.device("meta"):
        transformer = Transformer(config)
    for module in transformer.modules():
        if isinstance(module, EngramTable):
            module.placement = engram
    return transformer


def _directory(path_or_preset: str | Path) -> Path:
    if str(path_or_preset) == "demo":
        return DEMO
    if not Path(path_or_preset).is_dir():
        known = ", ".join(("demo", *PRESETS))
        raise BadInput(f"{path_or_preset}: is neither a checkpoint's directory nor a preset; presets: {known}")
    return Path(path_or_preset)


def _target(device: str, engram: Placement) -> Target:
    name, _, index = device.partition(":")
    if index and not index.isdecimal():
        raise BadInput(f"device {device!r}: what follows the colon is a device number, as in {name}:0")
    started = backend.start(backend.choose(name))
    return Target(started, current(started.device_type, int(index or 0)), engram)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise BadInput(f"dtype {dtype!r} is unknown; there are: {', '.join(DTYPES)}")
        return DTYPES[dtype]
    return dtype


def _random(config: Config, target: Target, dtype: torch.dtype) -> Transformer:
    """A model with fresh weights; its memory is checked first."""
    transformer = cast(on_meta(config, target.engram), dtype)
    needed = sum(t.numel() * t.element_size() for t in transformer.state_dict().values())
    if needed > (free := target.free(target.device)):
        raise BadInput(f"the model needs {needed / 1e9:.1f} GB on {target.device}, {free / 1e9:.1f} GB are free")
    for name, tensor in transformer.state_dict(keep_vars=True).items():
        empty = well_placed(torch.empty_like(tensor, device=target.place(name)))
        owner, _, leaf = name.rpartition(".")
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        setattr(transformer.get_submodule(owner), leaf, torch.nn.Parameter(empty) if is_parameter else empty)
    return initialize(transformer.to(target.device))


def _tokenizer(directory: Path, config: Config) -> Tokenizer | None:
    path = directory / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise BadInput(
            f"{path}: has {tokenizer.vocab_size} tokens, but the model {config.vocab_size}; it is another model's"
        )
    if config.engram is not None:
        check_compression(compressed_ids(tokenizer), config.engram)
    return tokenizer
