"""Faults of kernels: matrices, numbers and rows."""

import torch

from gpu.mutants import Mutant

F32 = torch.float32
BF16 = torch.bfloat16
_NORM = {"shape": (3, 5), "weighted": True, "dtype": F32}
_ROTARY = {"shape": (3, 25), "pairs": 4, "inverse": False, "dtype": F32}
_ANGLES = {"tokens": 7, "pairs": 9, "ratio": 4, "depth": 1 << 18}
_SWIGLU = {"shape": (5, 33), "limit": 1.0, "dtype": F32}
_LINEAR = {"tkn": (3, 64, 33), "format": "fp8_e4m3:32x32", "dtype": BF16}
_PAIRS = {"tkn": (3, 64, 33), "format": "mxfp4", "dtype": BF16}
_BLOCK = {"tgkn": (3, 2, 64, 20), "format": "int8:row", "dtype": BF16}
_GROUPED = {"counts": (1, 0, 5), "kn": (32, 24), "format": "plain", "dtype": F32}
_QUANTIZE = {"shape": (5, 64), "format": "fp8_e4m3:1x32", "power_of_two": True, "dtype": BF16}
_DEQUANTIZE = {"shape": (2, 5, 64), "format": "mxfp4", "dtype": F32}

MUTANTS = (
    Mutant(
        "rms_norm",
        "the block's width for the row's",
        "elementwise",
        "tl.sum(values * values, 1) / width + eps",
        "tl.sum(values * values, 1) / block + eps",
        _NORM,
    ),
    Mutant(
        "rms_norm",
        "a mask dropped",
        "elementwise",
        "tl.load(weight + channels, mask=channels < width, other=0.0)",
        "tl.load(weight + channels)",
        _NORM,
        guard=True,
    ),
    Mutant("rotary", "a sign lost", "elementwise", "tl.where(odd, other, -other)", "other", _ROTARY),
    Mutant(
        "rotary",
        "pairs off by one",
        "elementwise",
        "odd = ((channels - first) % 2 == 1)[None, :]",
        "odd = (channels % 2 == 1)[None, :]",
        _ROTARY,
    ),
    Mutant(
        "rotary",
        "a tail not masked",
        "elementwise",
        "tl.load(cos + angle, mask=there & turned, other=1.0)",
        "tl.load(cos + angle, mask=turned, other=1.0)",
        _ROTARY,
        guard=True,
    ),
    Mutant("rotary_angles", "reduced in float32", "angles", "wide = angle.to(tl.float64)", "wide = angle", _ANGLES),
    Mutant("rotary_angles", "a sign lost", "angles", "tl.where(below, -found_sin, found_sin)", "found_sin", _ANGLES),
    Mutant(
        "rotary_angles",
        "no position followed",
        "angles",
        "tl.where(position < 0, 0, position)",
        "position",
        {**_ANGLES, "tokens": 16, "depth": 1},
    ),
    Mutant(
        "rotary_angles",
        "a mask dropped",
        "angles",
        "tl.load(positions + at // pairs, mask=there, other=0)",
        "tl.load(positions + at // pairs)",
        _ANGLES,
        guard=True,
    ),
    Mutant(
        "swiglu",
        "a clamp removed",
        "elementwise",
        "gate = tl.where(gate > limit, limit, gate)",
        "gate = gate + 0.0",
        _SWIGLU,
    ),
    Mutant("swiglu", "a clamp on one side", "elementwise", "tl.where(up < -limit, -limit, up)", "up", _SWIGLU),
    Mutant(
        "swiglu",
        "a tail not masked",
        "elementwise",
        "clamped_swiglu(g, u, limit).to(y.dtype.element_ty), mask=there)",
        "clamped_swiglu(g, u, limit).to(y.dtype.element_ty))",
        _SWIGLU,
    ),
    Mutant(
        "linear",
        "a scale forgotten",
        "numbers",
        "total += part * factor(by, power)[None, :]",
        "total += part + 0.0 * factor(by, power)[None, :]",
        _LINEAR,
    ),
    Mutant("linear", "the first block's scale", "numbers", "begin // wide if wide else 0", "0", _LINEAR),
    Mutant(
        "linear",
        "halves of a byte swapped",
        "numbers",
        "tl.dot(even, tl.trans(number(both & 15",
        "tl.dot(even, tl.trans(number(both >> 4",
        _PAIRS,
    ),
    Mutant("linear", "FNUZ for OCP", "numbers", "half.to(tl.float32) * 256.0", "half.to(tl.float32) * 128.0", _LINEAR),
    Mutant(
        "linear",
        "rows behind the last",
        "numbers",
        "seen = x_there[:, None] & (column < columns)[None, :]",
        "seen = (x_row >= 0)[:, None] & (column < columns)[None, :]",
        _LINEAR,
        guard=True,
    ),
    Mutant("block_linear", "another group's scales", "linear", "scale + group * scales, out", "scale, out", _BLOCK),
    Mutant(
        "block_linear",
        "a stride off",
        "linear",
        "at, there, known = token * groups + group,",
        "at, there, known = token * groups,",
        _BLOCK,
    ),
    Mutant(
        "grouped_linear",
        "the last tile lost",
        "linear",
        "(tl.maximum(high - low, 0) + rows - 1) // rows",
        "tl.maximum(high - low, 0) // rows",
        _GROUPED,
    ),
    Mutant(
        "grouped_linear",
        "rows of nobody multiplied",
        "linear",
        "tl.where(expert < experts, columns, 0)",
        "columns",
        _GROUPED,
    ),
    Mutant("quantize", "ties upwards", "quantize", "bits + 0x7FFFF + ((bits >> 20) & 1)", "bits + 0x80000", _QUANTIZE),
    Mutant("quantize", "a scale twice as large", "quantize", "- 126 - shift", "- 125 - shift", _QUANTIZE),
    Mutant("dequantize", "columns of bytes", "quantize", "at * pair // wide", "at // wide", _DEQUANTIZE),
    Mutant(
        "dequantize",
        "a mask dropped",
        "quantize",
        "tl.load(scale + shared, mask=inside, other=0)",
        "tl.load(scale + shared)",
        _DEQUANTIZE,
        guard=True,
    ),
)
