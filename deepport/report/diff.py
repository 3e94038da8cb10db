"""What changed from one report to another: two chips, two drivers, two versions.

Cases are matched by operator, grid, label, variant and seed; of each, the implementation that would serve is compared, and every
other kernel with itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deepport.conformance.result import PROFILES, MutantResult, Report, Result, Status
from deepport.conformance.verdict import Word, verdict
from deepport.report.words import duration, share

MARGIN_FACTOR = 1.5
"""A margin that changes by less is not told: seeds are the same, but the order of sums may differ."""
LEAST_MARGIN = 0.1
"""Nor one that stays below this share of its bound."""
TIME_FACTOR = 2.0
LEAST_SECONDS = 1e-4
"""Shorter calls are not compared: they measure the host."""

Kind = Literal[
    "regression",
    "repair",
    "answer",
    "served",
    "margin",
    "time",
    "gone",
    "new",
    "kernel",
    "mutant",
    "operator",
    "environment",
]

KINDS: dict[Kind, str] = {
    "regression": "regressions",
    "repair": "repairs",
    "answer": "as bad, but otherwise",
    "served": "served by another implementation",
    "kernel": "kernels of other content",
    "operator": "operators of another definition",
    "mutant": "mutants of another fate",
    "margin": f"shares of a bound that changed by more than {MARGIN_FACTOR:g}x",
    "time": f"times that changed by more than {TIME_FACTOR:g}x (for information)",
    "gone": "only in the first",
    "new": "only in the second",
    "environment": "environment",
}

_RANK: dict[Status, int] = {"pass": 0, "gap": 1, "not_run": 2, "unsupported": 3, "fail": 4, "error": 4, "timeout": 4}
_WORDS: dict[Word, int] = {"conforms": 0, "conforms with gaps": 1, "incomplete": 2, "does not conform": 3}

Key = tuple[str, str, str, str, int, str]


@dataclass(frozen=True)
class Change:
    """`what` was `before` and is `after`; `operator` is "" for what belongs to the whole run."""

    kind: Kind
    operator: str
    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    changes: tuple[Change, ...]

    def of(self, kind: Kind) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.kind == kind)

    @property
    def regressed(self) -> bool:
        return bool(self.of("regression"))

    def as_json(self) -> dict[str, Any]:
        return {"regressed": self.regressed, "changes": [asdict(c) for c in self.changes]}


def diff(a: Report, b: Report) -> Difference:
    """What changed from `a` to `b`.

    Regressions: a status that is worse; a kernel that a reference replaces; a case that passed and is gone though `b` was asked
    for it; a mutant or a null kernel that now survives; a worse verdict.
    """
    changes = [*_verdict(a, b), *_cases(a, b), *_mutants(a, b), *_kernels(a, b), *_operators(a, b), *_environment(a, b)]
    order = list(KINDS)
    return Difference(tuple(sorted(changes, key=lambda c: order.index(c.kind))))


def _verdict(a: Report, b: Report) -> Iterator[Change]:
    before, after = verdict(a).word, verdict(b).word
    if before != after:
        yield Change("regression" if _WORDS[after] > _WORDS[before] else "repair", "", "verdict", before, after)


def _cases(a: Report, b: Report) -> Iterator[Change]:
    old, new = _index(a), _index(b)
    for key in old | new:
        if key not in new:
            lost = (
                old[key].status == "pass"
                and PROFILES.index(b.profile) >= PROFILES.index(a.profile)
                and _in_scope(key[0], b)
            )
            yield Change("regression" if lost else "gone", key[0], _title(old[key]), _answer(old[key]), "is not there")
        elif key not in old:
            yield Change("new", key[0], _title(new[key]), "is not there", _answer(new[key]))
        else:
            yield from _case(old[key], new[key])


def _in_scope(operator: str, report: Report) -> bool:
    return not report.operators or operator in report.operators


def _index(report: Report) -> dict[Key, Result]:
    return {
        (r.operator, r.case.grid, r.case.label, r.case.variant, r.case.seed, "" if r.serving else r.implementation): r
        for r in report.results
    }


def _case(a: Result, b: Result) -> Iterator[Change]:
    title = _title(b)
    if a.status != b.status:
        worse = _RANK[b.status] - _RANK[a.status]
        kind: Kind = "regression" if worse > 0 else "repair" if worse else "answer"
        yield Change(kind, b.operator, title, _answer(a), _answer(b))
    elif a.by_kernel and not b.by_kernel:
        yield Change("regression", b.operator, title, a.implementation, b.implementation)
    elif a.implementation != b.implementation:
        yield Change("served", b.operator, title, a.implementation, b.implementation)
    for name in b.nulls:
        if b.nulls[name] == "survived" and a.nulls.get(name) == "killed":
            yield Change("regression", b.operator, f"{title}: null kernel {name}", "killed", "survived")
    if a.status == b.status == "pass":
        yield from _margin(a, b, title)
        yield from _time(a, b, title)


def _margin(a: Result, b: Result, title: str) -> Iterator[Change]:
    """The gate whose margin changed most."""
    old = {(g.gate, g.metric): g.margin for g in a.gates}
    pairs = [(g, old.get((g.gate, g.metric)), g.margin) for g in b.gates]
    found = [
        (_ratio(x, y), g, x, y) for g, x, y in pairs if x is not None and y is not None and max(x, y) > LEAST_MARGIN
    ]
    ratio, gate, before, after = max(found, key=lambda f: f[0], default=(0.0, None, 0.0, 0.0))
    if gate is not None and ratio > MARGIN_FACTOR:
        yield Change("margin", b.operator, f"{title}: {gate.gate} {gate.metric}", share(before), share(after))


def _time(a: Result, b: Result, title: str) -> Iterator[Change]:
    both = a.device_seconds > 0 and b.device_seconds > 0
    before, after = (a.device_seconds, b.device_seconds) if both else (a.seconds, b.seconds)
    if max(before, after) >= LEAST_SECONDS and min(before, after) > 0 and _ratio(before, after) > TIME_FACTOR:
        yield Change("time", b.operator, title, duration(before), duration(after))


def _ratio(x: float, y: float) -> float:
    low, high = sorted((x, y))
    return high / low if low > 0 else float("inf") if high > 0 else 1.0


def _mutants(a: Report, b: Report) -> Iterator[Change]:
    if a.mutants is None or b.mutants is None:
        return
    old, new = ({(m.operator, m.name): m for m in mutants} for mutants in (a.mutants, b.mutants))
    for key in old | new:
        before, after = _fate(old.get(key)), _fate(new.get(key))
        if before != after:
            lost = before == "killed" and after in ("survived", "error", "not_run")
            yield Change("regression" if lost else "mutant", key[0], f"mutant {key[1]}", before, after)


def _fate(mutant: MutantResult | None) -> str:
    return mutant.status if mutant else "is not there"


def _kernels(a: Report, b: Report) -> Iterator[Change]:
    old, new = ({(k.operator, k.name): k.hash for k in report.kernels} for report in (a, b))
    for key in old | new:
        before, after = old.get(key, "is not there"), new.get(key, "is not there")
        if before != after:
            yield Change("kernel", key[0], key[1], _short(before), _short(after))


def _operators(a: Report, b: Report) -> Iterator[Change]:
    old, new = ({r.operator: r.spec_hash for r in report.results} for report in (a, b))
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            yield Change("operator", name, "definition", _short(old[name]), _short(new[name]))


def _environment(a: Report, b: Report) -> Iterator[Change]:
    old, new = _described(a), _described(b)
    for name in old | new:
        if old.get(name) != new.get(name):
            yield Change("environment", "", name, old.get(name, "-"), new.get(name, "-"))


def _described(report: Report) -> dict[str, str]:
    return {
        "backend": report.backend,
        "device": report.device.name,
        "architecture": report.device.architecture,
        "evidence": report.evidence,
        "profile": report.profile,
        "operators": ", ".join(report.operators) or "all",
        "mutants": "not run" if report.mutants is None else "run",
        **report.environment,
    }


def _title(r: Result) -> str:
    variant = f", {r.case.variant}" if r.case.variant else ""
    return f"{r.case.grid}: {r.case.label}{variant}" + ("" if r.serving else f" by {r.implementation}")


def _answer(r: Result) -> str:
    return r.status if r.status == "pass" or not r.reason else f"{r.status}: {r.reason}"


def _short(hash: str) -> str:
    return hash.removeprefix("sha256:")[:12] or "no file"


def grouped(changes: tuple[Change, ...]) -> list[tuple[Change, int]]:
    """Changes of one operator from one answer to another, told once: an example, and how many."""
    groups: dict[tuple[str, str, str], list[Change]] = defaultdict(list)
    for c in changes:
        groups[c.operator, c.before, c.after].append(c)
    return [(found[0], len(found)) for found in groups.values()]
