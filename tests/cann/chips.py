"""The chips that can be simulated, by the short names of their generations, and CANN's versions."""

from __future__ import annotations

CHIPS = {"A2": "Ascend910B2", "A3": "Ascend910_9382", "A5": "Ascend950PR_9599"}
"""What `aclrtGetSocName` says."""

CANN = "9.2.0"
"""The version of CANN when none is asked for."""


def soc(name: str) -> str:
    """A chip by its generation or its own name. ValueError for none of them."""
    if name in CHIPS or name in CHIPS.values():
        return CHIPS.get(name, name)
    raise ValueError(f"no chip is called {name!r}; there are {', '.join(f'{g} ({n})' for g, n in CHIPS.items())}")
