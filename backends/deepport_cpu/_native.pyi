from typing import Any

level: str

class Recording:
    """Kernel calls, made again by replay(); the caller keeps their tensors alive."""

    def begin(self) -> None: ...
    def end(self) -> None: ...
    def replay(self) -> None: ...
    def __len__(self) -> int: ...

def __getattr__(name: str) -> Any:
    """A kernel, by the name that it has in the headers of csrc/cpu."""
