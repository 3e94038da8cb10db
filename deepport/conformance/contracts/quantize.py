"""Contracts of `deepport.ops.quantize`: every value is read; blocks that share a scale may span rows."""

from deepport.conformance.contract import Contract

CONTRACTS = {"quantize": Contract(), "dequantize": Contract()}
