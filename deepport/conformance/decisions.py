"""What a model decides, and how several runs of it come to decide alike.

A model is continuous but for its decisions: which entries an indexer keeps, which experts a router picks, which token is the most
probable. Two honest runs decide a near tie differently, and then differ by far more than rounding. In float32 a draw of weights
without near ties can be looked for; in bfloat16 there is none, for among a thousand choices some margins are always smaller than
2^-9. So no draw is thrown away. The float64 oracle decides first, and every other run follows it:

- A choice that is right for its own inputs (the operator's own gates, G5) but is not the oracle's is replaced by the oracle's, in
  the rows where they differ; the weights of experts so picked are the reference's. All other rows are what was computed.
- A choice that is wrong for its own inputs stands, is counted, and spoils what comes after it.
- What a choice is made from is kept as its `grounds`, to be compared like any other output: an indexer's queries and keys lead to
  nothing but a choice, and an error in them would otherwise be forgiven with it.
- The tokens after the prompts are the oracle's; whether a run would have taken others is judged from its logits.

What is left between two runs is rounding, and the ratio of their errors means something in every dtype and at every depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport import backend, ops
from deepport.conformance.judge import judge
from deepport.conformance.oracle import listed, truth
from deepport.op import Operator
from deepport.paper import OnPaper
from deepport.policy import REFERENCE, Choice, Session
from deepport.ragged import read_pages, segments


def _index_grounds(given: dict[str, Any]) -> dict[str, Tensor]:
    """Queries, their weights, and the keys of every entry that one of them may choose."""
    positions, pages, table = given["positions"], given["pages"], given["table"]
    keys = [pages.new_zeros(0, pages.shape[-1])]
    for b, low, high in segments(given["cu_seqlens"]):
        ready = int(positions[low:high].max() + 1) // given["ratio"]
        keys.append(read_pages(pages, table, b, torch.arange(ready, device=pages.device)))
    return {"indexer queries": given["q"], "indexer weights": given["weights"], "indexer keys": torch.cat(keys)}


def _route_grounds(given: dict[str, Any]) -> dict[str, Tensor]:
    """Hash-routed, nothing is chosen."""
    return {} if given["table"] is not None else {"router logits": given["logits"]}


_GROUNDS: dict[str, Callable[[dict[str, Any]], dict[str, Tensor]]] = {
    "index_topk": _index_grounds,
    "route": _route_grounds,
}
"""What the operators that choose do so from, by name; nothing where a call leaves no choice."""


def everything(implementation: str) -> bool:
    """Leaves every kernel out, so that references serve."""
    return True


def nothing(implementation: str) -> bool:
    return False


def identity(operator: str, implementation: str) -> str:
    """`rms_norm:acme/fast`: what a kernel is called where operators are mixed."""
    return f"{operator}:{implementation}"


@dataclass
class Decisions:
    """What the run that leads has decided: `choices` (ids) in the order of calls, `tokens` [sequences] in the order of steps."""

    choices: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)

    def packed(self) -> list[Tensor]:
        """As one list of tensors, for another process."""
        return [torch.tensor(len(self.tokens)), *self.tokens, *self.choices]

    @classmethod
    def unpacked(cls, tensors: Sequence[Tensor]) -> Decisions:
        steps = 1 + int(tensors[0])
        return cls(list(tensors[steps:]), list(tensors[1:steps]))


class Directed(Session):
    """A session that leads or follows in decisions, and in which some kernels may not serve.

    Args:
        decisions: filled where the session leads, obeyed where it follows.
        without: the kernels, by `identity`, whose calls the reference computes instead.
        policy: of `Session`.

    Attributes:
        rows, differing: rows of choices made, and those in which the oracle's replaced another that was right as well.
        wrong: the implementations whose choices were not right for their own inputs, once for every such call.
    """

    watches = True

    def __init__(
        self, decisions: Decisions, *, leads: bool = False, without: Callable[[str], bool] = nothing, **policy: Any
    ) -> None:
        super().__init__(**policy)
        self.decisions, self.rows, self.differing = decisions, 0, 0
        self.wrong: list[str] = []
        self._leads, self._without, self._made = leads, without, 0
        self._imposed: dict[int, Tensor] = {}
        self._grounds: dict[str, list[Tensor]] = {}

    @property
    def grounds(self) -> dict[str, Tensor]:
        """What all choices were made from, flat and on the CPU, by what it is."""
        return {name: torch.cat(parts) for name, parts in self._grounds.items()}

    def token(self, step: int, logits: Tensor) -> list[int]:
        """The next token of every sequence: the most probable by `logits` [sequences, V], or what was decided."""
        if self._leads:
            self.decisions.tokens.append(logits.argmax(-1).cpu())
        found: list[int] = self.decisions.tokens[step].tolist()
        return found

    def _choose(
        self,
        operator: Operator[..., Any],
        arguments: tuple[Any, ...],
        started: backend.Started | OnPaper | None,
        planning: bool = False,
    ) -> Choice:
        choice = self._served(operator, super()._choose(operator, arguments, started, planning))
        if operator.name == "route_backward":
            return replace(choice, run=lambda *a: choice.run(*self._as_imposed(operator, a)))
        if operator.name in _GROUNDS:
            return replace(choice, run=lambda *a: self._decided(operator, choice, a))
        return choice

    def _served(self, operator: Operator[..., Any], choice: Choice) -> Choice:
        """Who serves a call in the end."""
        if choice.run is operator.reference or not self._without(identity(operator.name, choice.implementation)):
            return choice
        return Choice(REFERENCE, operator.reference, (*choice.refusals, (choice.implementation, "left out")))

    def _decided(self, operator: Operator[..., Any], choice: Choice, arguments: tuple[Any, ...]) -> Any:
        result, given = choice.run(*arguments), operator.bind(arguments)
        if not (grounds := _GROUNDS[operator.name](given)):
            return result
        for name, values in grounds.items():
            self._grounds.setdefault(name, []).append(values.flatten().cpu())
        ids = listed(result)[-1]
        if self._leads:
            self.decisions.choices.append(ids.cpu())
            return result
        decided = self.decisions.choices[self._made].to(ids.device)
        self._made += 1
        self.rows += len(ids)
        differs = (ids.sort(-1).values != decided.sort(-1).values).any(-1)
        if not bool(differs.any()):
            return result
        if not _right(operator, given, listed(result)):
            self.wrong.append(identity(operator.name, choice.implementation))
            return result
        self.differing += int(differs.sum())
        return self._impose(given, result, decided, differs)

    def _impose(self, given: dict[str, Any], result: Any, decided: Tensor, differs: Tensor) -> Any:
        """The result, with what was decided in the rows that differ."""
        where = differs[:, None]
        if isinstance(result, Tensor):
            return torch.where(where, decided, result)
        weights, ids = result
        picked = torch.where(where, decided, ids)
        self._imposed[given["logits"].data_ptr()] = picked
        return torch.where(where, ops.route.reference(**_picking(given, picked))[0], weights), picked

    def _as_imposed(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """A gradient's arguments, under which the experts picked are those of the forward pass."""
        given = operator.bind(arguments)
        picked = self._imposed.get(given["logits"].data_ptr())
        return arguments if picked is None else tuple(_picking(given, picked).values())


def _picking(given: dict[str, Any], ids: Tensor) -> dict[str, Any]:
    """`route`'s arguments under which it picks these experts: its table has a row for each token."""
    tokens = torch.arange(len(ids), device=ids.device)
    return given | {"bias": None, "table": ids.long(), "input_ids": tokens}


def _right(operator: Operator[..., Any], given: dict[str, Any], results: list[Tensor]) -> bool:
    """Whether the operator's own gates accept a choice, given the inputs that it was made from."""
    arguments = {n: tree_map_only(Tensor, lambda t: t.cpu(), a) for n, a in given.items()}
    with torch.no_grad():
        judged = judge(operator, arguments, [t.cpu() for t in results], truth(operator, arguments))
    return all(g.status != "fail" for g in judged)
