"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import TextIO

from deepport.chips.profile import Profile
from deepport.command.render import scaled, show
from deepport.formats import PLAIN
from deepport.planning.bound import UNKNOWN, operators
from deepport.planning.check import Checked, Line
from deepport.planning.claims import HALF, PER_HUNDRED_BILLION, SHARE, Claims
from deepport.planning.estimate import Estimate, Step
from deepport.planning.plan import ASSUMED, Asked, Plan, precision
from deepport.planning.prefetch import Fetch
from deepport.planning.whatif import Variant
from deepport.report.words import duration

_LEAST = 0.001
"""The part of a step's time from which on what bounds it is named."""

_WIDTH = 100
"""Columns of prose."""

_SHOWN = 8
"""Operators of a step that are shown unless all are asked for."""


def render(plan: Plan, every: bool, file: TextIO) -> None:
    """`every`: all operators, and not the slowest only."""
    _say(headline(plan), file)
    file.write("\n")
    _memory(plan, file)
    for name, step in (("decode", plan.estimate.decode), ("prefill", plan.estimate.prefill)):
        file.write("\n")
        _say(f"{name}: {bounded(step, plan.estimate.fits)}", file)
        found = operators(step.timed)
        rows = [
            (o.name, str(o.calls), scaled(o.flops), scaled(o.bytes, "B"), duration(o.seconds), o.by)
            for o in (found if every else found[:_SHOWN])
        ]
        show(("operator", ">calls", ">flops", ">reads", ">at least", "bound by"), rows, file)
        _fetched(step.fetched, file)
    if plan.claims is not None:
        file.write("\n" + "".join(f"{line}\n" for line in promised(plan.claims)))
    file.write("\nwhat if (tokens a second: upper bounds by model)\n")
    show(WHAT_IF, (variant(v) for v in plan.variants), file)
    file.write("\nassumed, so that every rate is an upper bound by model, and none a performance:\n")
    for line in (*ASSUMED, *of_the_chip(plan.asked.chip)):
        _say(f"- {line}", file)


def _say(text: str, file: TextIO) -> None:
    """Prose, in lines that a terminal shows whole."""
    file.write("".join(f"{line}\n" for line in wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)))


def headline(plan: Plan) -> str:
    asked = plan.asked
    chip = f"{asked.devices} x {asked.chip.name} ({asked.chip.vendor} {asked.chip.title})"
    sequences = f"{asked.load.batch} sequence{'' if asked.load.batch == 1 else 's'} of {asked.load.context:,} tokens"
    return f"{asked.model} in {in_formats(asked)}, on {chip}: {sequences}, prompts in steps of {asked.load.chunk}"


def in_formats(asked: Asked) -> str:
    """What weights are in."""
    dtype = precision(asked.model, asked.dtype) or "the checkpoint's formats"
    return dtype if asked.format == PLAIN else f"{asked.format} (the rest in {dtype})"


def bounded(step: Step, fits: bool | None) -> str:
    """What a step can be at most, and what bounds it."""
    if step.rate is None:
        return "unknown: the profile has neither bandwidth nor arithmetic"
    limits = ", ".join(f"{by} {percent(part)}" for by, part in step.shares.items() if part >= _LEAST)
    of = "tokens" if step.tokens > 1 else "token"
    least = f"a step of {step.tokens} {of} takes at least {duration(step.seconds)}"
    most = "if it did fit, at most" if fits is False else "at most"
    return f"{most} {rate(step)} tokens/s (upper bound by model): {least}, bound by {limits}"


def verdict(plan: Plan) -> list[str]:
    """Whether it fits, and what would make it fit, or how much room there is."""
    found, memory = plan.estimate, plan.estimate.chip.value("memory")
    if memory is None:
        return [f"each device holds {scaled(found.needed, 'B')}; how much it has, nobody has published"]
    of = f"{scaled(found.needed, 'B')} of {scaled(memory, 'B')} on each device"
    if found.fits:
        room = [f"batch {plan.batch}"] if plan.batch else []
        room += [f"context {plan.context:,}"] if plan.context else []
        return [f"fits: {of}; room for {' or '.join(room)}" if room else f"fits: {of}"]
    changes = [f"- {r.change}: {scaled(r.needed, 'B')} on each" for r in plan.remedies]
    return [f"does not fit: {of}", "would fit with" if changes else "no single change makes it fit", *changes]


def of_the_chip(chip: Profile) -> list[str]:
    """What one must know of it beside its numbers."""
    lacks = (
        [f"{chip.name} has no arithmetic in {', '.join(chip.lacks)}: such weights are decoded"] if chip.lacks else []
    )
    return [*lacks, *(f"{chip.name}: {limit}" for limit in chip.limits)]


def host(plan: Plan) -> str:
    """What lies on the host, "" for nothing."""
    sizes, chip = plan.estimate.sizes, plan.estimate.chip
    parts = []
    if held := sizes.elsewhere("host"):
        have = chip.value("host_memory")
        count = chip.hosts(plan.estimate.devices)
        of = f", {percent(held / have / count)} of {count} x {scaled(have, 'B')}" if have else ", of an unknown amount"
        parts.append(f"{scaled(held, 'B')} of the host's memory{of}")
    if mapped := sizes.elsewhere("mmap"):
        cold = "" if chip.file else "; how fast it is read cold, the profile does not say"
        parts.append(
            f"{scaled(mapped, 'B')} in a file that the host maps; rates are warm: its pages are in memory{cold}"
        )
    return "; ".join(parts)


def _memory(plan: Plan, file: TextIO) -> None:
    sizes, devices = plan.estimate.sizes, plan.estimate.devices
    rows = [
        (p.name, scaled(p.bytes, "B"), scaled(sizes.share(p, devices), "B") if p.place == "device" else "-", p.place)
        for p in sizes.parts
    ]
    show(("memory", ">in all", ">a device", "on"), rows, file)
    for line in (*verdict(plan), *filter(None, [host(plan)])):
        _say(line, file)


def _fetched(fetched: Iterable[Fetch], file: TextIO) -> None:
    rows = [fetch(f) for f in fetched]
    if rows:
        show(FETCHED, rows, file)


CHECKED = ("", ">planned", ">measured", ">measured / planned", "")


def render_check(checked: Checked, file: TextIO) -> None:
    """What was planned beside what was measured."""
    chip = checked.plan.asked.chip
    file.write(f"\nthis plan beside a run here, on {chip.title}, by the most that its probes gave meanwhile\n")
    show(CHECKED, (checked_line(line) for line in checked.lines), file)
    file.write("\nof the prompt, by operator\n")
    show(CHECKED[:-1], (checked_line(line)[:-1] for line in checked.operators), file)


def checked_line(line: Line) -> tuple[str, ...]:
    """As cells of a table."""
    if not line.bound:
        return line.what, scaled(line.planned, "B"), scaled(line.measured, "B"), f"{line.ratio:.3f}", line.verdict
    ratio = f"{line.ratio:,.3g}" if line.planned else UNKNOWN
    return line.what, f"at least {duration(line.planned)}", duration(line.measured), ratio, line.verdict


FETCHED = ("engram layer", ">rows a device", ">arrive after", ">cover", "hidden", ">a link needs")


def fetch(found: Fetch) -> tuple[str, ...]:
    hidden = _hidden(found.hidden, found.waits)
    if found.mapped:
        cold = None if found.cold is None else not found.waits_cold
        hidden = f"warm {hidden}, cold {_hidden(cold, found.waits_cold)}"
    arrives = UNKNOWN if found.arrives is None else duration(found.arrives)
    needs = "cover" if found.rate == float("inf") else scaled(found.rate, "B/s")
    return str(found.layer), scaled(found.bytes, "B"), arrives, duration(found.cover), hidden, needs


def _hidden(hidden: bool | None, waits: float) -> str:
    return {True: "yes", False: f"no: {duration(waits)} more", None: UNKNOWN}[hidden]


WHAT_IF = ("change", ">a device", "fits", ">host", ">decode /s", "bound by", ">prefill /s", "bound by ")


def variant(found: Variant) -> tuple[str, ...]:
    e: Estimate = found.estimate
    fits = {True: "yes", False: "no", None: UNKNOWN}[e.fits]
    return (
        found.change or "as planned", scaled(e.needed, "B"), fits, scaled(e.sizes.elsewhere("host"), "B"),
        *_bound(e.decode), *_bound(e.prefill),
    )  # fmt: skip


def _bound(step: Step) -> tuple[str, str]:
    return rate(step), next(iter(step.shares), UNKNOWN)


def rate(step: Step) -> str:
    if step.rate is None:
        return UNKNOWN
    return f"{step.rate:,.0f}" if step.rate >= 100 else f"{step.rate:.3g}"


def percent(part: float) -> str:
    return f"{100 * part:.3g}%"


def promised(found: Claims) -> list[str]:
    """The design's promises beside what they come to here."""
    part = "unknown: the profile names no host" if found.share is None else percent(found.share)
    return [
        "engram's tables on the host instead of the devices; in brackets what the design promises",
        f"  devices' memory: {scaled(found.before, 'B')} to {scaled(found.after, 'B')}, "
        f"{percent(found.saved)} less [{percent(HALF)}]",
        f"  host's memory for {scaled(found.parameters)} parameters: {scaled(found.bytes, 'B')}, "
        f"{scaled(found.per_hundred_billion, 'B')} for 100 G [{scaled(PER_HUNDRED_BILLION, 'B')}]",
        f"  part of the host's memory: {part} [{percent(SHARE)}]",
    ]
