"""Whether the kernels that served a run have a conformance record on this machine, as they are now."""

from __future__ import annotations

from importlib.metadata import version

from deepport.backend import Started
from deepport.record import Record


def unproven(record: Record, started: Started) -> list[str]:
    """Kernels (`operator:backend/kernel`) that computed something and have no passing record with these files and this torch."""
    from deepport.conformance import store
    from deepport.conformance.environment import kernel_hash

    used = {f"{row.operator}:{row.implementation}" for row in record.totals()}
    kernels = {f"{o}:{started.name}/{k.name}": k for o, found in started.kernels.items() for k in found}
    hashes = {name: kernel_hash(kernel) for name, kernel in kernels.items() if name in used}
    return store.unproven(started.name, hashes, version("torch"))
