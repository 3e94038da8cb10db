"""Gate G6: what operators amount to when they are composed into a model.

The same ratio as for one operator (`deepport.conformance.gates`), after every layer and at the end. With `e = got - oracle`,
`r = yardstick - oracle`, `u` the spacing of the output's format at the oracle's largest magnitude, and n elements:

| metric | passes where |
|---|---|
| rms, of layers' streams, choices' grounds, logits | `rms(e) <= a rms(r) + u / sqrt(n)` |
| worst token, of streams and logits | `max over tokens rms(e_t) <= b max over tokens rms(r_t) + u / sqrt(columns)` |
| logits KL | `mean KL(oracle || got) <= a^2 mean KL(oracle || yardstick) + u^2 / (8 T)`: it is quadratic in the error |
| top-1 | the oracle's logit of its token exceeds that of the token got by at most `2 (b max |r| + u)` |
| greedy | no other token than the oracle's, but where its two best are within 1e-4 of the logits' range (float32 only) |
| gradients | `rms(e) <= a rms(r) + u / sqrt(n)` for every parameter; none exactly where the yardstick has none |

A layer's detail tells by how much e and r grew over the layer before. All runs decide alike
(`deepport.conformance.decisions`), so that e and r are rounding and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepport.conformance.gates import order_of, spacing
from deepport.conformance.result import Gate
from deepport.conformance.trace import Script
from deepport.spec import Tolerance

TOLERANCE = Tolerance(
    "errors of operators, each within these bounds of its reference's own, add up; composing them allows no more than each alone",
)

_CLEAR = 1e-4
"""Share of the logits' range by which the best token must lead the second for every correct run to take it."""


@dataclass(frozen=True)
class Compared:
    """One output of a run beside the oracle's and the yardstick's, of a model in `dtype`; rows are tokens."""

    name: str
    error: Tensor
    own: Tensor
    oracle: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, name: str, got: Tensor, oracle: Tensor, yardstick: Tensor, dtype: torch.dtype) -> Compared:
        right = oracle.double()
        return cls(name, got.double() - right, yardstick.double() - right, right, dtype)

    @property
    def spacing(self) -> float:
        return spacing(self.dtype, float(self.oracle.abs().max()))

    @property
    def bounds(self) -> tuple[float, float]:
        """a and b."""
        order = order_of(TOLERANCE, self.dtype)
        return TOLERANCE.rms * order, TOLERANCE.max * order

    def rms(self) -> tuple[float, float]:
        """The error and its bound."""
        a, _ = self.bounds
        return _rms(self.error), a * _rms(self.own) + self.spacing / self.error.numel() ** 0.5

    def worst_token(self) -> tuple[float, float, int]:
        """The largest error of a row, its bound, and which row."""
        _, b = self.bounds
        mine, own = (t.flatten(1).square().mean(1).sqrt() for t in (self.error, self.own))
        row = int(mine.nan_to_num(torch.inf).argmax())
        columns = self.error[0].numel()
        return float(mine[row]), b * float(own.max()) + self.spacing / columns**0.5, row


Outputs = Mapping[str, Tensor]
"""Of one run, by name (`deepport.conformance.trace`)."""


def compositions(got: Outputs, oracle: Outputs, yardstick: Outputs, script: Script, dtype: torch.dtype) -> list[Gate]:
    """All of G6 on a trace: streams after each layer, what choices were made from, logits."""
    compared = {n: Compared.of(n, got[n], oracle[n], yardstick[n], dtype) for n in oracle}
    layers = [c for name, c in compared.items() if name.startswith("layer")]
    return [*_layerwise(layers, script), *outcome(got, oracle, yardstick, script, dtype)]


def outcome(got: Outputs, oracle: Outputs, yardstick: Outputs, script: Script, dtype: torch.dtype) -> list[Gate]:
    """G6 on what a model comes to: logits, and what it chose from on the way."""
    compared = {n: Compared.of(n, got[n], oracle[n], yardstick[n], dtype) for n in oracle if not n.startswith("layer")}
    grounds = [_gate(f"{name} rms", *c.rms()) for name, c in compared.items() if name != "logits"]
    return [*grounds, *_logits(compared["logits"], script)]


def _layerwise(layers: list[Compared], script: Script) -> list[Gate]:
    found = []
    for before, layer in zip([None, *layers], layers, strict=False):
        growth = "" if before is None else f"grew {_growth(before.error, layer.error)} over the layer before"
        own = "" if before is None else f", the yardstick's {_growth(before.own, layer.own)}"
        found += _sized(layer, script, growth + own)
    return found


def _growth(before: Tensor, after: Tensor) -> str:
    return f"{_rms(after) / max(_rms(before), torch.finfo(torch.float64).tiny):.3g}x"


def _sized(output: Compared, script: Script, detail: str = "") -> list[Gate]:
    value, bound = output.rms()
    worst, limit, row = output.worst_token()
    sequence, position = script.places[row]
    where = f"sequence {sequence}, position {position}"
    return [
        _gate(f"{output.name} rms", value, bound, detail),
        _gate(f"{output.name} worst token", worst, limit, where),
    ]


def _logits(logits: Compared, script: Script) -> list[Gate]:
    sized = [*_sized(logits, script), _divergence(logits), _top(logits)]
    return [*sized, _greedy(logits, script)] if logits.dtype == torch.float32 else sized


def _divergence(logits: Compared) -> Gate:
    a, _ = logits.bounds
    mine, own = (_kl(logits.oracle, logits.oracle + error) for error in (logits.error, logits.own))
    bound = a * a * own + logits.spacing**2 / (8 * len(logits.oracle))
    return _gate("logits KL", mine, bound, "mean over tokens, in nats")


def _kl(right: Tensor, other: Tensor) -> float:
    left, found = right.log_softmax(-1), other.log_softmax(-1)
    return float((left.exp() * (left - found)).sum(-1).mean().clamp(min=0.0))


def _top(logits: Compared) -> Gate:
    right, got = logits.oracle, logits.oracle + logits.error
    best, taken = right.max(-1), got.argmax(-1, keepdim=True)
    lost = best.values - right.gather(-1, taken).squeeze(-1)
    _, b = logits.bounds
    bound = 2 * (b * float(logits.own.abs().max()) + logits.spacing)
    same = int((taken.squeeze(-1) == best.indices).sum())
    return _gate("top-1", float(lost.max()), bound, f"{same} of {len(right)} tokens are the oracle's")


def _greedy(logits: Compared, script: Script) -> Gate:
    """Texts as far as they are decided: after each near tie the oracle's token was forced, and the run went on."""
    rows = torch.tensor(script.deciding)
    right, got = logits.oracle[rows], (logits.oracle + logits.error)[rows]
    best = right.topk(2, -1).values
    margins = (best[:, 0] - best[:, 1]) / (right.amax(-1) - right.amin(-1))
    other = (got.argmax(-1) != right.argmax(-1)).nonzero()[:, 0].tolist()
    wrong = [i for i in other if margins[i] >= _CLEAR]
    told = [_told(script, int(rows[i]), float(margins[i])) for i in (wrong or other)[:2]]
    same = f"{len(rows) - len(other)} of {len(rows)} tokens are the oracle's"
    return _gate("greedy", float(len(wrong)), 0.0, "; ".join((same, *told)))


def _told(script: Script, row: int, margin: float) -> str:
    sequence, position = script.places[row]
    step = position + 1 - len(script.prompts[sequence])
    return f"sequence {sequence}, step {step}: another token, at a margin of {margin:.1e} of the range; the oracle's was forced"


def gradient_gates(got: Outputs, oracle: Outputs, yardstick: Outputs) -> list[Gate]:
    """G6 on the gradients of parameters, of which an empty tensor is none: the one that uses up most of its bound."""
    every = [(n, got[n], oracle[n], yardstick[n]) for n in yardstick]
    wrong = [n for n, g, _, y in every if (g.numel() == 0) != (y.numel() == 0)]
    detail = f"{', '.join(wrong[:3])}: one has a gradient and the other has none" if wrong else ""
    both = [Compared.of(n, g, o, y, g.dtype) for n, g, o, y in every if g.numel() and y.numel()]
    shares = sorted(((*c.rms(), c.name) for c in both), key=lambda s: -_share(s[0], s[1]))
    told = "; ".join(f"{name}: rms {value:.2e}, bound {bound:.2e}" for value, bound, name in shares[:3])
    worst = _share(*shares[0][:2]) if shares else 0.0
    return [
        _gate("gradients missing", float(len(wrong)), 0.0, detail),
        _gate("gradients rms, as a share of the bound", worst, 1.0, f"worst of {len(shares)} parameters: {told}"),
    ]


def _share(value: float, bound: float) -> float:
    share = value / bound if bound else (0.0 if value == 0 else torch.inf)
    return torch.inf if math.isnan(share) else share


def informative(gates: Sequence[Gate]) -> list[Gate]:
    """What the gates read where references are judged by themselves: where they stand against float64, and no verdict."""
    told = "the references are the definition, and this is theirs against float64"
    return [
        g.model_copy(
            update={"status": "not applicable", "bound": None, "detail": f"{told}; {g.detail}" if g.detail else told}
        )
        for g in gates
    ]


def _gate(metric: str, value: float, bound: float, detail: str = "") -> Gate:
    passed = value <= bound  # False where value is NaN
    return Gate(gate="G6", metric=metric, status="pass" if passed else "fail", value=value, bound=bound, detail=detail)


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
