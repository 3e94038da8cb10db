"""What a result is bound to: the kernel's files, the operator's definition, the driver, the machine."""

from __future__ import annotations

import hashlib
import inspect
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepport import backend
from deepport.kernel import Kernel
from deepport.op import Operator, operators

_COMPILED = (".so", ".pyd", ".dylib")


def kernel_hash(kernel: Kernel) -> str:
    """sha256 over the kernel's module and every compiled file of the package that it is in; "" where it has no file."""
    module = inspect.getmodule(kernel.run)
    source = getattr(module, "__file__", None) if module else None
    return _hash_of_files(source) if source else ""


@cache
def _hash_of_files(source: str) -> str:
    path = Path(source)
    folder = path.parent
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
    packaged = folder.rglob("*") if (folder / "__init__.py").exists() else iter(())
    compiled = sorted(p for p in packaged if p.suffix in _COMPILED)
    return _sha256(p.read_bytes() for p in dict.fromkeys((path, *compiled)))


def spec_hash(operator: Operator[..., Any]) -> str:
    """Of an operator's schema and of the file with its reference."""
    owner = operators[operator.name.removesuffix("_backward")]
    file = inspect.getsourcefile(owner.reference) or ""
    return _hash_of_spec(operator.schema, file)


@cache
def _hash_of_spec(schema: str, file: str) -> str:
    return _sha256((schema.encode(), Path(file).read_bytes() if file else b""))


def _sha256(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return f"sha256:{found.hexdigest()}"


def installed(name: str) -> dict[str, str]:
    """Hashes of a backend's kernels as they are here, by `operator:backend/kernel`. Starts the backend."""
    started = backend.start(name)
    return {f"{o}:{name}/{k.name}": kernel_hash(k) for o, kernels in started.kernels.items() for k in kernels}


def environment(name: str) -> dict[str, str]:
    """Versions of everything that a result of this backend depends on."""
    probe = backend.get(name).probe()
    found = {
        "deepport": version("deepport"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "hypothesis": version("hypothesis"),  # draws the generated grid, each version its own
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "implementation": sys.implementation.name,
    }
    return found | {f"{name} {what}": text for what, text in probe.versions.items()}
