"""Contracts of `deepport.ops.dense`: every value is read, and elementwise operators compute each row by itself."""

from deepport.conformance.contract import Contract

CONTRACTS = {
    # The order of a GEMM's sums may depend on the number of rows.
    "linear": Contract(),
    "block_linear": Contract(),
    "rms_norm": Contract(rows=("x",)),
    "rotary": Contract(rows=("x", "cos", "sin")),
    "rotary_angles": Contract(rows=("positions",)),
}
