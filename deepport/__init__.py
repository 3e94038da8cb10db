"""deepport: write a DeepSeek-V4-class model once, run it on any device that a backend serves.

Importing this package imports neither torch nor a vendor's package; each name is resolved when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepport import ops as ops
    from deepport.backend import backends as backends
    from deepport.errors import DeepportError as DeepportError
    from deepport.policy import Session as Session
    from deepport_model import load as load

_NAMES = {
    "backends": "deepport.backend",
    "DeepportError": "deepport.errors",
    "Session": "deepport.policy",
    "load": "deepport_model",
}

__all__ = ["DeepportError", "Session", "backends", "load", "ops"]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("deepport.ops")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'deepport' has no attribute {name!r}")
