"""Contracts of `deepport.ops.mhc`: every value is read; the projection is a GEMM, whose sums may depend on the number of rows."""

from deepport.conformance.contract import Contract

CONTRACTS = {"mhc_pre": Contract(), "mhc_post": Contract(), "mhc_head": Contract()}
