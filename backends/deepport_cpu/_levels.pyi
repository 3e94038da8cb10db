def chosen() -> str:
    """The level in use: the fastest here, or what DEEPPORT_CPU_LEVEL names; RuntimeError for one that is not here."""

def present() -> list[str]:
    """The levels of this build that this processor can run, the slowest first."""
