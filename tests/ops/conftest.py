"""These tests are about the references: no backend's kernel serves here, whatever it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deepport.op import Operator
from deepport.server import current_server


class References:
    """Serves every call by the operator's reference."""

    def serve(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> Any:
        return operator.reference(*arguments)

    def trace(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> None:
        """Fake tensors need nobody."""


@pytest.fixture(autouse=True)
def references() -> Iterator[None]:
    token = current_server.set(References())
    yield
    current_server.reset(token)
