"""The operators' contracts, a file per family as in `deepport.ops`."""

from deepport.conformance.contract import Contract

CONTRACTS: dict[str, Contract] = {}
