"""A plan as somebody asks for it: a model in a format on so many chips, and all that follows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from deepport import backend, formats
from deepport.bench.quantised import Formats, quantise
from deepport.chips.profile import Profile
from deepport.errors import BadInput
from deepport.planning.claims import Claims, claims
from deepport.planning.estimate import Estimate, Load, Planner
from deepport.planning.fit import Remedy, largest_batch, largest_context, remedies
from deepport.planning.trace import NOBODY, Kernels
from deepport.planning.whatif import Variant, variants
from deepport_model.loading import shaped
from deepport_model.presets import PRESETS
from deepport_model.transformer import Transformer

ASSUMED = (
    "devices share everything evenly and for nothing: all that is kept, every operator, and no time to send or to wait. deepport "
    "itself runs a model on one device",
    "results stay on the chip: only weights, caches and tables are read from memory",
    "tokens choose experts and entries at random, each as likely as any other",
    "a number that the chip's profile has not got bounds nothing",
)
"""What every rate rests on."""

_FORMATS = ("int8+int8", "fp8+fp8", "mxfp4+fp8")
"""Formats of experts and dense layers that are tried."""


@dataclass(frozen=True)
class Asked:
    """`dtype`: of activations and plain weights, None for a checkpoint's; `format`: as in `deepport.bench.quantised`."""

    model: str
    dtype: str | None
    format: str
    chip: Profile
    devices: int
    load: Load


@dataclass(frozen=True)
class Plan:
    """`batch` and `context`: the most of one that fits with the other as it is, 0 for none or unknown."""

    asked: Asked
    estimate: Estimate
    remedies: list[Remedy]
    batch: int
    context: int
    variants: list[Variant]
    claims: Claims | None


def make(asked: Asked) -> Plan:
    """Raises BadInput for a model that is not there, or a context that it has not got."""
    transformer = in_format(asked.model, asked.dtype, asked.format)
    if asked.load.context > (most := transformer.config.max_position_embeddings):
        raise BadInput(f"--context {asked.load.context}: {asked.model} has a context of {most} tokens")
    if asked.load.engram != "device" and transformer.config.engram is None:
        raise BadInput(
            f"--engram {asked.load.engram}: {asked.model} has no Engram; v4-flash-engram and mini-engram have"
        )
    kernels = _kernels(asked.chip)
    planner, others = Planner(transformer, kernels), _others(asked, transformer, kernels)
    found = planner.estimate(asked.chip, asked.devices, asked.load)
    return Plan(
        asked, found, remedies(planner, found, others), largest_batch(planner, found), largest_context(planner, found),
        list(variants(planner, found, others)), claims(planner, found),
    )  # fmt: skip


def in_format(model: str, dtype: str | None, format: str) -> Transformer:
    """A preset or a checkpoint, on meta, its plain weights in a format."""
    return quantise(shaped(model, precision(model, dtype)), Formats.parse(format))


def precision(model: str, dtype: str | None) -> str | None:
    """Of a preset bfloat16 unless it is said otherwise; None for a checkpoint's own."""
    return dtype or ("bfloat16" if model in PRESETS else None)


def _kernels(chip: Profile) -> Kernels:
    """Of a processor's backend, which is here wherever plans are; other backends' kernels need their device."""
    return backend.start(chip.backend).kernels if chip.backend == "cpu" else NOBODY


def _others(asked: Asked, transformer: Transformer, kernels: Kernels) -> dict[str, Planner]:
    """The model in other formats than it has; none of a checkpoint that is quantised: it has its own."""
    if asked.format == formats.PLAIN and any(
        getattr(m, "format", formats.PLAIN) != formats.PLAIN for m in transformer.modules()
    ):
        return {}
    tried = (f"{name}+fp8" if transformer.config.engram and "fp8" in name else name for name in _FORMATS)
    names = [name for name in (formats.PLAIN, *tried) if name != asked.format]
    found = {}
    for name in names:
        with suppress(BadInput):  # blocks of some formats are too large for small models
            found[name] = Planner(in_format(asked.model, asked.dtype, name), kernels)
    return found
