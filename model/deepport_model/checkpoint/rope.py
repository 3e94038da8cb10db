"""The rotary embedding's part of config.json, in both spellings."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from deepport.errors import BadInput
from deepport_model.checkpoint.fields import Fields
from deepport_model.checkpoint.names import Naming
from deepport_model.config import Config, Yarn

_YARN = {"rope_type", "type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor",
         "mscale", "mscale_all_dim", "truncate"}  # fmt: skip
_NESTED = {"rope_theta", "partial_rotary_factor"}
_DEFAULT_FRACTION = 64 / 512
"""transformers' own, where a file says neither `partial_rotary_factor` nor `qk_rope_head_dim`."""


def read(source: Fields) -> dict[str, Any]:
    """The fields of Config that describe the rotary embedding."""
    if "rope_scaling" in source and "rope_parameters" in source:
        raise BadInput(f"{source.where}: has both rope_scaling and rope_parameters; remove the one that is not meant")
    scaling = source.child("rope_scaling" if "rope_scaling" in source else "rope_parameters")
    positions = source.get("max_position_embeddings", int, Config.max_position_embeddings)
    fraction = source.get("partial_rotary_factor", float | None, None)
    if "main" not in scaling or "compress" not in scaling:
        scaling.refuse_others(_YARN)
        return {
            "rope_theta": source.get("rope_theta", float, Config.rope_theta),
            "compress_rope_theta": source.get("compress_rope_theta", float, Config.compress_rope_theta),
            "yarn": _read_yarn(scaling, positions, attention=1.0),
            "qk_rope_head_dim": _read_width(source, fraction),
        }
    main, compress = scaling.child("main"), scaling.child("compress")
    main.refuse_others({"rope_type", "type"} | _NESTED)
    compress.refuse_others(_YARN | _NESTED)
    if _read_yarn(main, positions, attention=1.0) is not None:
        raise BadInput(f"{main.where}: YaRN is only supported under compress")
    widths = {_read_width(source, part.get("partial_rotary_factor", float, fraction)) for part in (main, compress)}
    if len(widths) > 1:
        raise BadInput(f"{scaling.where}: main and compress differ in partial_rotary_factor")
    return {
        "rope_theta": main.get("rope_theta", float),
        "compress_rope_theta": compress.get("rope_theta", float),
        "yarn": _read_yarn(compress, positions, attention=None),
        "qk_rope_head_dim": widths.pop(),
    }


def _read_width(source: Fields, fraction: float | None) -> int:
    """Channels that are rotated: stated, or a fraction of the head, rounded down as transformers rounds it."""
    stated: int | None = source.get("qk_rope_head_dim", int | None, None)
    if fraction is None and stated is not None:
        return stated
    width = int(source.get("head_dim", int) * (_DEFAULT_FRACTION if fraction is None else fraction))
    if stated not in (None, width):
        raise BadInput(f"{source.where}: qk_rope_head_dim is {stated}, but partial_rotary_factor makes it {width}")
    return width


def _read_yarn(source: Fields, positions: int, attention: float | None) -> Yarn | None:
    """YaRN's parameters; cos and sin are scaled by `attention` where the file does not say, None for YaRN's own rule.

    DeepSeek-V4 does not scale them, and transformers knows so only where `rope_parameters` is not nested.
    """
    kind = source.get("rope_type", str, source.get("type", str, "default"))
    if kind not in ("default", "yarn"):
        raise BadInput(f"{source.where}: rope_type is {kind!r}; supported: default, yarn")
    if not source.get("truncate", bool, True):
        raise BadInput(f"{source.where}: truncate is false; supported: true")
    if kind == "default":
        source.refuse_others({"rope_type", "type", "truncate"} | _NESTED)
        return None
    factor = source.get("factor", float)
    attention = source.get("attention_factor", float | None, attention)
    yarn = Yarn(
        factor=factor,
        original_max_position_embeddings=source.get("original_max_position_embeddings", int, positions),
        beta_fast=source.get("beta_fast", float | None, None) or Yarn.beta_fast,
        beta_slow=source.get("beta_slow", float | None, None) or Yarn.beta_slow,
        attention_factor=_attention(source, factor) if attention is None else attention,
    )
    for name, value in asdict(yarn).items():
        if value <= 0 or (name == "factor" and value < 1):
            raise BadInput(
                f"{source.where}: {name} is {value}; it must be {'at least 1' if name == 'factor' else 'positive'}"
            )
    return yarn


def _attention(source: Fields, factor: float) -> float:
    """YaRN's scale of cos and sin, `0.1 m ln(factor) + 1`, or the ratio of two such (arXiv 2309.00071, section 3.4)."""
    over, under = (source.get(key, float | None, None) for key in ("mscale", "mscale_all_dim"))
    scale = 0.1 * math.log(max(factor, 1.0))
    return float((over * scale + 1) / (under * scale + 1) if over and under else scale + 1)


def write(config: Config, spelling: Naming) -> dict[str, Any]:
    """The keys that describe the rotary embedding."""
    yarn = None if config.yarn is None else {"rope_type": "yarn", **asdict(config.yarn)}
    thetas = {"rope_theta": config.rope_theta, "compress_rope_theta": config.compress_rope_theta}
    if spelling == "deepseek":
        scaling = None if yarn is None else {"type": yarn.pop("rope_type"), **yarn}
        return {**thetas, "qk_rope_head_dim": config.qk_rope_head_dim, "rope_scaling": scaling}
    fraction = _fraction(config.qk_rope_head_dim, config.head_dim)
    main = {"rope_type": "default", "rope_theta": config.rope_theta, "partial_rotary_factor": fraction}
    compress = {**main, **(yarn or {}), "rope_theta": config.compress_rope_theta}
    return {**thetas, "partial_rotary_factor": fraction, "rope_parameters": {"main": main, "compress": compress}}


def _fraction(width: int, head: int) -> float:
    """A float that gives `width` when it is multiplied with `head` and rounded down: 15/49 times 49 is 14.999..."""
    fraction = width / head
    return fraction if int(head * fraction) == width else math.nextafter(fraction, math.inf)
