"""Whom an operator asks when it is called: the session in force, or the default one."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from deepport.op import Operator


class Server(Protocol):
    """Decides who computes a call; `deepport.policy.Session` implements it."""

    def serve(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> Any: ...

    def trace(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> None: ...


current_server: ContextVar[Server] = ContextVar("deepport_server")

_default: list[Server] = []


def set_default_server(server: Server) -> None:
    """Install the session that serves calls made outside any session (`deepport.policy` does, once)."""
    _default[:] = [server]


def default_server() -> Server:
    if not _default:
        import deepport.policy  # noqa: F401  (installs itself)
    return _default[0]


def server() -> Server:
    """The server of the session that was entered last in this context, else the default."""
    return current_server.get(None) or default_server()
