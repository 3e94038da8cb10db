"""Errors a user can act on: one clear line, and the exit code it ends a command with."""


class DeepportError(Exception):
    """A failure that is not a bug. `exit_code` is what a command ends with."""

    exit_code = 1


class BadInput(DeepportError):
    """A checkpoint, configuration, prompt or option that cannot be used."""

    exit_code = 2


class BackendUnavailable(DeepportError):
    """The backend or its device is absent; the text says why and what to install."""

    exit_code = 3


class BackendBroken(DeepportError):
    """An installed backend breaks the protocol of `deepport.backend`: for its author to repair."""


class Unsupported(DeepportError):
    """No kernel takes this call, and the policy forbids the reference."""

    exit_code = 4


class FallbackBudgetExceeded(DeepportError):
    """More calls went to the host than the policy allows."""

    exit_code = 5


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out. torch's own types are not imported for this; its CPU allocator raises a plain RuntimeError."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def late(error: BaseException) -> bool:
    """Whether a device that runs behind its caller may have failed in an earlier call than the one that raises.

    By the types that torch raises then; memory is the caller's to ask for, and its lack is told at once.
    """
    return type(error).__name__ in ("RuntimeError", "AcceleratorError") and not exhausted(error)
