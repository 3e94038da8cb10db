"""Where in a model a call is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class _Sites:
    """The path of the module that is being computed."""

    def __init__(self) -> None:
        self._path = [""]

    def __call__(self) -> str:
        return self._path[-1]

    def watch(self, module: nn.Module, path: str) -> list[Any]:
        return [
            module.register_forward_pre_hook(lambda *_: self._path.append(path)),
            module.register_forward_hook(lambda *_: self._leave(), always_call=True),
        ]

    def _leave(self) -> None:
        self._path.pop()


@contextmanager
def sites(model: nn.Module) -> Iterator[_Sites]:
    """What to give a `Record` as `site`: while inside, calls are noted under their module's path, `layers.3.attn.wq_a`."""
    found = _Sites()
    hooks = [hook for path, module in model.named_modules() if path for hook in found.watch(module, path)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
