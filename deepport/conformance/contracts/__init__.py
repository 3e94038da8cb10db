"""The operators' contracts, a file per family as in `deepport.ops`."""

from deepport.conformance.contract import Contract
from deepport.conformance.contracts import attention, cache, compress, dense, engram, mhc, moe, quantize

CONTRACTS: dict[str, Contract] = {
    name: contract
    for family in (attention, cache, compress, dense, engram, mhc, moe, quantize)
    for name, contract in family.CONTRACTS.items()
}
"""By operator; every one of `deepport.ops` is there."""
