"""Plans: who would serve every call of a model on a device, found without weights and without computing anything."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TextIO

import torch

from deepport.command.explain import BASIS, planned, planned_sites
from deepport.command.render import scaled
from deepport.command.request import Policy
from deepport.paper import OnPaper
from deepport.planning.sites import sites
from deepport.policy import Session
from deepport.record import Record
from deepport_model.loading import shaped


@dataclass(frozen=True)
class Plan:
    """Who would serve a prefill of `tokens` tokens and then one step of decoding; `weights` in bytes."""

    tokens: int
    weights: int
    prefill: Record
    decode: Record

    def as_json(self, sites: bool) -> dict[str, Any]:
        """By operator, or by call site, too."""
        steps = {"prefill": self.prefill, "decode": self.decode}
        rows = {
            name: [asdict(r) for r in (record.rows if sites else record.totals())] for name, record in steps.items()
        }
        return {"tokens": self.tokens, "weight_bytes": self.weights, **rows}

    def show(self, sites: bool, file: TextIO) -> None:
        """By operator, or by call site."""
        file.write(f"weights {scaled(self.weights, 'B')}; {BASIS}\n\n")
        steps = ((self.prefill, f"prefill of {self.tokens} tokens"), (self.decode, "decode of one token after it"))
        for record, title in steps:
            (planned_sites if sites else planned)(record, f"plan: {title}", file)
            file.write("\n")


def make_plan(model: str, dtype: str | None, backend: str | OnPaper, policy: Policy, tokens: int) -> Plan:
    """The plan of a preset or a checkpoint, of which only the headers are read; the backend must be there, or on paper."""
    policy.check()
    transformer = shaped(model, dtype)
    weights = sum(t.numel() * t.element_size() for t in transformer.state_dict().values())
    with sites(transformer) as site, torch.inference_mode():
        plan = Plan(tokens, weights, Record(site), Record(site))
        cache = transformer.cache(1, tokens + 1, tokens)
        for record, count in ((plan.prefill, tokens), (plan.decode, 1)):
            with Session(backend=backend, record=record, **policy.session()):
                transformer.step(cache.append({0: [0] * count}), cache, "last")
    return plan
