"""A failing call as a folder that anyone can run again: `bundle.json`, and `tensors.safetensors` with inputs, expected and got.

A bundle needs neither the model nor the case that it came from. It is written whole or not at all, and read with every doubt:
JSON and safetensors only, no name in it leads to a file, and sizes are checked before memory is asked for.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import deepport.ops  # noqa: F401  (declares the operators)
from deepport.backend import start
from deepport.conformance import stored
from deepport.conformance.environment import environment, kernel_hash, spec_hash
from deepport.conformance.oracle import Truth
from deepport.conformance.result import REFERENCE, CaseKey, Gate
from deepport.errors import BackendUnavailable, BadInput
from deepport.kernel import Kernel
from deepport.op import operators

FORMAT: Literal["deepport.bundle/1"] = "deepport.bundle/1"
_HEAD, _TENSORS = "bundle.json", "tensors.safetensors"
_LARGEST_HEAD = 8 << 20


class _Head(stored.Frozen):
    """`bundle.json`."""

    format: Literal["deepport.bundle/1"] = FORMAT
    operator: str
    backend: str
    implementation: str
    kernel_hash: str
    spec_hash: str
    case: CaseKey | None
    call: int
    site: str
    arguments: dict[str, stored.Stored]
    oracle: stored.StoredList
    yardstick: stored.StoredList
    got: stored.StoredList
    gates: tuple[Gate, ...]
    environment: dict[str, str]
    command: str

    @property
    def tensors(self) -> list[stored.StoredTensor]:
        parts = (*self.arguments.values(), self.oracle, self.yardstick, self.got)
        return [t for part in parts for t in stored.listed(part)]


@dataclass(frozen=True)
class Bundle:
    """One call of one implementation, and what was wrong with it.

    Attributes:
        operator: by name.
        backend: on whose device it ran.
        implementation: `<backend>/<kernel>`, or `reference`.
        arguments: by name, on the CPU, as they were before the call.
        expected: the oracle's outputs and the yardstick's (`deepport.conformance.oracle`).
        got: what came, on the CPU; empty where it could not be judged.
        gates: what the gates said of it.
        case: of the suite, where it is one's.
        call, site: the number of the implementation's call in a run of a model, from 1, and where in the model; else 0 and "".
        kernel_hash, spec_hash, environment: filled in as the bundle is written.
    """

    operator: str
    backend: str
    implementation: str
    arguments: dict[str, Any]
    expected: Truth
    got: list[Tensor]
    gates: tuple[Gate, ...]
    case: CaseKey | None = None
    call: int = 0
    site: str = ""
    kernel_hash: str = ""
    spec_hash: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def is_bundle(folder: Path) -> bool:
    return (folder / _HEAD).is_file()


def write(folder: Path, bundle: Bundle) -> None:
    """Write a bundle. One that is there already is replaced; BadInput where anything else is, or it would be too large."""
    if folder.exists() and not is_bundle(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder}: exists and is no bundle; name another folder")
    tensors: dict[str, Tensor] = {}
    head = _head(folder, bundle, tensors)
    stored.check(head.tensors)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, fresh / _TENSORS)
        (fresh / _HEAD).write_text(head.model_dump_json(indent=1) + "\n")
        for name in (_TENSORS, _HEAD):
            with (fresh / name).open("rb") as file:
                os.fsync(file.fileno())
        fresh.chmod(0o755)
        _replace(folder, fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _replace(folder: Path, fresh: Path) -> None:
    if not folder.exists():
        fresh.rename(folder)
        return
    old = folder.rename(fresh.with_name(f"{fresh.name}.old"))
    fresh.rename(folder)
    shutil.rmtree(old)


def _head(folder: Path, bundle: Bundle, tensors: dict[str, Tensor]) -> _Head:
    kernel = kernel_of(bundle.operator, bundle.implementation)
    return _Head(
        operator=bundle.operator,
        backend=bundle.backend,
        implementation=bundle.implementation,
        kernel_hash=kernel_hash(kernel) if kernel else "",
        spec_hash=spec_hash(operators[bundle.operator]),
        case=bundle.case,
        call=bundle.call,
        site=bundle.site,
        arguments={n: stored.put(f"argument.{n}", v, tensors) for n, v in bundle.arguments.items()},
        oracle=stored.put("oracle", bundle.expected.oracle, tensors),
        yardstick=stored.put("yardstick", bundle.expected.yardstick, tensors),
        got=stored.put("got", bundle.got, tensors),
        gates=bundle.gates,
        environment=environment(bundle.backend),
        command=f"deepport repro {shlex.quote(str(folder))}",
    )


def read(folder: Path) -> Bundle:
    """The bundle in a folder; BadInput for whatever is wrong with it."""
    try:
        head = _Head.model_validate_json(_bytes(folder / _HEAD, _LARGEST_HEAD))
        _check(head)
        _bytes(folder / _TENSORS, stored.LARGEST + _LARGEST_HEAD, whole=False)
        tensors = load_file(folder / _TENSORS)
        stored.check(head.tensors, tensors)
        arguments = {n: stored.get(v, tensors) for n, v in head.arguments.items()}
        oracle, yardstick, got = (stored.get(v, tensors) for v in (head.oracle, head.yardstick, head.got))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise BadInput(f"{folder}/{_HEAD}: {where}: {first['msg']}") from None
    except SafetensorError as error:
        raise BadInput(f"{folder}/{_TENSORS}: {' '.join(str(error).split())}") from None
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    return Bundle(
        head.operator,
        head.backend,
        head.implementation,
        arguments,
        Truth(oracle, yardstick),
        got,
        head.gates,
        head.case,
        head.call,
        head.site,
        head.kernel_hash,
        head.spec_hash,
        head.environment,
    )


def _bytes(path: Path, largest: int, whole: bool = True) -> bytes:
    """What is in a plain file that is not too large; with `whole=False` it is only looked at."""
    if path.is_symlink() or not path.is_file():
        raise BadInput(f"there is no {path.name}")
    if path.stat().st_size > largest:
        raise BadInput(f"{path.name} has more than {largest:,} bytes")
    return path.read_bytes() if whole else b""


def _check(head: _Head) -> None:
    if head.operator not in operators:
        raise BadInput(f"no operator is called {head.operator!r}")
    expected = operators[head.operator].parameters
    if set(head.arguments) != set(expected):
        raise BadInput(f"{head.operator} takes {', '.join(expected)}, not {', '.join(head.arguments) or 'nothing'}")
    outputs = len(head.oracle.items)
    if len(head.yardstick.items) != outputs or len(head.got.items) not in (0, outputs):
        raise BadInput("oracle, yardstick and got are not the outputs of one call")
    if any(not isinstance(i, stored.StoredTensor) for p in (head.oracle, head.yardstick, head.got) for i in p.items):
        raise BadInput("an output is not a tensor")
    names = [t.name for t in head.tensors]
    if len(set(names)) != len(names):
        raise BadInput("two tensors have one name")


def kernel_of(operator: str, implementation: str) -> Kernel | None:
    """The kernel called `<backend>/<kernel>`, None for a reference."""
    if implementation.startswith(REFERENCE):
        return None
    name, _, called = implementation.partition("/")
    for kernel in start(name).kernels.get(operator, []):
        if kernel.name == called:
            return kernel
    raise BackendUnavailable(f"{operator}: the {name} backend that is installed has no kernel called {called!r}")
