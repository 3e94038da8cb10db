"""llama.cpp, by its binding llama-cpp-python, from a GGUF file that we wrote.

Where GCC 12 compiled it on a processor with AMX, its products of Q8_0 (ours: int8) end with SIGILL: that compiler's
`_tile_loadconfig` does not say what memory it reads, and the configuration of the tiles is left out as unused. The run tells so,
and goes on without it; plain, mxfp4 and fp8 weights, which it multiplies otherwise, are not concerned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepport.bench.peers import gguf
from deepport_model.transformer import Transformer

PACKAGE = "llama-cpp-python"
MISSING = (
    "llama-cpp-python is not installed: pip install 'deepport[bench]', which compiles it for this processor and takes "
    "some minutes"
)
_SETTINGS = {"cache": "f16, f32 for float32 weights", "window": "swa_full=False", "weights": "in memory, not mapped"}
_FILE = "model.gguf"
_FLOAT32 = "float32"


def write(model: Transformer, folder: Path) -> None:
    """What `start` reads."""
    gguf.write(model, folder / _FILE)
    if model.dtype == torch.float32:
        (folder / _FLOAT32).touch()


def about() -> tuple[str, dict[str, str]]:
    return version(PACKAGE), _SETTINGS


def start(folder: Path, threads: int, capacity: int, chunk: int) -> Run:
    os.environ["GGML_NO_BACKTRACE"] = "1"  # one that fails would start a debugger, which takes a minute
    return Run(folder, threads, capacity, chunk)


class Run:
    """One sequence."""

    def __init__(self, folder: Path, threads: int, capacity: int, chunk: int) -> None:
        import llama_cpp

        kind = llama_cpp.GGML_TYPE_F32 if (folder / _FLOAT32).exists() else llama_cpp.GGML_TYPE_F16
        self._llama: Any = llama_cpp.Llama(
            str(folder / _FILE), n_ctx=capacity, n_batch=chunk, n_ubatch=chunk, n_threads=threads, n_threads_batch=threads,
            use_mmap=False, swa_full=False, type_k=kind, type_v=kind, verbose=False,
        )  # fmt: skip

    def reset(self) -> None:
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()  # reset alone only forgets how many tokens there were

    def feed(self, ids: Sequence[int]) -> None:
        self._llama.eval(ids)

    def logits(self) -> Tensor:
        context = self._llama._ctx  # the public way to logits keeps those of every token, and costs time
        values = np.ctypeslib.as_array(context.get_logits_ith(-1), shape=(self._llama.n_vocab(),))
        return torch.from_numpy(values.copy())
