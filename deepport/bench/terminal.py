"""A benchmark on a terminal: the machine and its limits, then figures, then what was left out."""

from __future__ import annotations

from typing import TextIO

from deepport.bench.result import Figure, Limit, Report
from deepport.bench.spread import Spread
from deepport.command.render import fields, scaled, show
from deepport.report.words import duration, printable

_COMMON = ("shape", ">tokens", "format", "served by", ">time", ">+-", ">rate", ">of the limit", "limit", ">rounds")


def render(report: Report, file: TextIO) -> None:
    """Write the report to a terminal or a pipe."""
    for line in report.implausible:
        file.write(f"IMPLAUSIBLE {printable(line)}\n")
    fields(_machine(report), file)
    file.write("\n")
    show(("limit", ">rate", ">+-", ">most", ">probes", "by"), map(_limit, report.limits), file)
    operators = [f for f in report.figures if f.kind == "operator"]
    wholes = [f for f in report.figures if f.kind != "operator"]
    _figures("operator", operators, file)
    _figures("model", wholes, file)
    _notes(report, file)


def _machine(report: Report) -> list[tuple[str, str]]:
    m = report.machine
    caches = ", ".join(f"{c.level} {scaled(c.bytes, 'B')}" for c in m.caches)
    versions = ", ".join(f"{name} {text}" for name, text in m.versions.items())
    return [
        ("device", printable(f"{report.backend}: {m.device}")),
        ("host", printable(f"{m.processor}, {m.cores} cores, {m.threads} threads, {caches}, {scaled(m.memory, 'B')}")),
        ("versions", printable(versions + (f", commit {report.commit}" if report.commit else ""))),
    ]


def _limit(limit: Limit) -> tuple[str, ...]:
    r = limit.rate
    rates = (scaled(value, limit.unit) for value in (r.median, r.mad, r.most))
    return (limit.name, *rates, str(r.n), printable(limit.by))


def _figures(what: str, figures: list[Figure], file: TextIO) -> None:
    if not figures:
        return
    peers = list(dict.fromkeys(a.peer for f in figures for a in f.against))
    columns = (what, *_COMMON, *(f">{peer} takes" for peer in peers))
    file.write("\n")
    show(columns, [_row(f, peers) for f in figures], file)


def _row(f: Figure, peers: list[str]) -> tuple[str, ...]:
    model = f" ({f.model})" if f.kind == "operator" else ""
    ratios = {a.peer: times(a.ratio) for a in f.against}
    return (
        f"{f.name}{model}" if f.kind == "operator" else f"{f.name} {f.kind}",
        printable(f.label, 60),
        str(f.tokens),
        f.format if f.format != "plain" else f.dtype,
        who(f),
        duration(f.seconds.median),
        percent(f.seconds.mad / f.seconds.median),
        rate(f),
        "" if f.share is None else f"{percent(f.share.median)} +-{percent(f.share.mad)}",
        f"{f.limit}, {f.memory}" if f.limit else f.memory,
        str(f.seconds.n),
        *(ratios.get(p, "") for p in peers),
    )


def who(f: Figure) -> str:
    """The implementation of an operator, or how many of a step's calls references serve."""
    if f.kind == "operator":
        return f.served[0].implementation
    calls = sum(s.calls for s in f.served)
    references = sum(s.calls for s in f.served if s.implementation.startswith("reference"))
    return f"kernels {calls - references} of {calls} calls"


def rate(f: Figure) -> str:
    """In the unit that says most: tokens a second of a model; of an operator, what its limit counts."""
    if f.kind != "operator":
        return f"{f.tokens_per_second:.4g} tokens/s"
    if f.limit.startswith("gemm"):
        return scaled(f.flops / f.seconds.median, "flop/s")
    return scaled(f.bytes / f.seconds.median, "B/s")


def times(ratio: Spread) -> str:
    """`2.31x +-0.04`: a peer's time over ours."""
    return f"{ratio.median:.3g}x +-{ratio.mad:.2g}"


def percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _notes(report: Report, file: TextIO) -> None:
    if report.peers:
        file.write("\n")
        rows = [(p.name, p.version, _difference(p.difference, p.allowed), printable(p.refused)) for p in report.peers]
        show(("peer", "version", "logits differ by", "not timed because"), rows, file)
    if report.left_out:
        file.write("\nleft out:\n")
        file.writelines(f"  {printable(line)}\n" for line in report.left_out)
    if report.stopped:
        file.write(f"\n{report.stopped}: what was measured before that is shown\n")


def _difference(found: float | None, allowed: float | None) -> str:
    return "" if found is None or allowed is None else f"{found:.2g} (rounding explains {allowed:.2g})"
