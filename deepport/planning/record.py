"""A plan as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from deepport.planning.bound import operators
from deepport.planning.check import Checked, Line
from deepport.planning.estimate import Estimate, Step
from deepport.planning.plan import ASSUMED, Plan

MEANING = "upper bounds by model, no performance"


def as_json(plan: Plan) -> dict[str, Any]:
    """All of it; `chip` is the whole profile, with its sources."""
    asked = plan.asked
    return {
        "meaning": MEANING, "assumed": ASSUMED, "model": asked.model, "dtype": asked.dtype, "format": asked.format,
        "chip": asked.chip.model_dump(mode="json", exclude_defaults=True), "devices": asked.devices,
        "load": asdict(asked.load), **_estimate(plan.estimate),
        "memory": [asdict(p) | {"device_bytes": plan.estimate.sizes.share(p, asked.devices)} for p in plan.estimate.sizes.parts],
        "remedies": [asdict(r) for r in plan.remedies], "largest_batch": plan.batch, "largest_context": plan.context,
        "engram_claims": None if plan.claims is None else asdict(plan.claims),
        "what_if": [{"change": v.change} | _estimate(v.estimate, brief=True) for v in plan.variants],
    }  # fmt: skip


def check_as_json(checked: Checked) -> dict[str, Any]:
    """What was planned beside what was measured, and the plan."""
    found = {"holds": checked.holds, "check": [_line(line) for line in checked.lines]}
    return {**found, "check_operators": [_line(line) for line in checked.operators], **as_json(checked.plan)}


def _line(line: Line) -> dict[str, Any]:
    return {**asdict(line), "ratio": line.ratio if line.planned else None, "holds": line.holds}


def _estimate(e: Estimate, brief: bool = False) -> dict[str, Any]:
    return {
        "fits": e.fits, "device_bytes": e.needed, "host_bytes": e.sizes.elsewhere("host"),
        "file_bytes": e.sizes.elsewhere("mmap"),
        "prefill": _step(e.prefill, brief), "decode": _step(e.decode, brief),
    }  # fmt: skip


def _step(step: Step, brief: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tokens": step.tokens, "least_seconds": step.seconds, "most_tokens_per_second": step.rate, "bound_by": step.shares,
    }  # fmt: skip
    if not brief:
        found["operators"] = [asdict(o) for o in operators(step.timed)]
        found["fetches"] = [
            asdict(f) | {"hidden": f.hidden, "rate": f.rate if math.isfinite(f.rate) else None} for f in step.fetched
        ]
    return found
