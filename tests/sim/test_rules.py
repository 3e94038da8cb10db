"""Every rule of the simulated accelerator: broken it is found, with its operator and its line; kept it is silent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sim.conftest import Program, Run

PROGRAMS = Path(__file__).with_name("programs")
_SOURCE = (PROGRAMS / "rules.py").read_text()
NAMES = re.findall(r"^@case\ndef (\w+)", _SOURCE, re.MULTILINE)
BROKEN = [name for name in NAMES if not name.startswith("kept_")]
KEPT = [name for name in NAMES if name.startswith("kept_")]
RULES = (
    "mixed-devices", "implicit-sync", "host-copy", "reference-sync", "fallback", "stream-order", "record-stream", "staging",
    "uninitialised", "out-of-memory",
)  # fmt: skip
"""All but host-access, which ends the process (`test_what_the_host_may_not_touch`)."""

OPERATORS = {
    "mixed_devices_in_our_operator": "deepport::rms_norm",
    "mixed_devices_after_a_kernel_s_own_error": "aten::add",
    "implicit_sync_item": "aten::_local_scalar_dense",
    "implicit_sync_mask": "aten::index",
    "host_copy": "aten::_copy_from",
    "fallback": "aten::sort",
    "stream_order_of_our_operators": "deepport::rms_norm",
    "record_stream": "a tensor's end",
    "uninitialised_in_part": "aten::sum",
    "uninitialised_after_moves": "deepport::rms_norm",
    "out_of_memory": "aten::empty",
}


def rule_of(name: str) -> str:
    return next(rule for rule in RULES if name.startswith(rule.replace("-", "_")))


def test_each_rule_is_broken_and_kept() -> None:
    for names in (BROKEN, [name.removeprefix("kept_") for name in KEPT]):
        assert {rule_of(name) for name in names} == set(RULES)


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_rule_is_an_error(program: Program, name: str) -> None:
    found: dict[str, Any] = program("rules")[name]
    rule = rule_of(name)
    assert found["rules"][0] == rule
    assert f"deepport_sim: {rule}: " in found["raised"]
    assert "# here" in found["lines"][0] or (rule == "reference-sync" and "cu_seqlens.tolist()" in found["lines"][0])
    assert found["ops"][0] == OPERATORS.get(name, found["ops"][0])
    assert f"by {found['ops'][0]} at " in found["raised"]


def test_errors_have_the_types_that_callers_look_for(program: Program) -> None:
    found = program("rules")
    kinds = {name: found[name]["raised"].partition(":")[0] for name in BROKEN}
    assert kinds.pop("fallback") == "NotImplementedError" and kinds.pop("out_of_memory") == "OutOfMemoryError"
    assert set(kinds.values()) == {"RuntimeError"}


@pytest.mark.parametrize("name", KEPT)
def test_what_keeps_a_rule_is_silent(program: Program, name: str) -> None:
    found = program("rules")[name]
    assert found == {"raised": None, "rules": [], "ops": [], "lines": []}


@pytest.mark.parametrize("policy", ["warn", "allow"])
def test_a_rule_can_be_a_warning_or_nothing(sim: Run, program: Program, policy: str) -> None:
    rules = [
        r for r in RULES if r not in ("host-copy", "reference-sync")
    ]  # those functions choose their policy themselves
    found = program("rules", *(f"{rule}={policy}" for rule in rules))
    chosen = [name for name in BROKEN if rule_of(name) in rules]
    assert not [found[name]["raised"] for name in chosen if found[name]["raised"]]
    wanted = {name: rule_of(name) if policy == "warn" else None for name in chosen}
    assert {name: next(iter(found[name]["rules"]), None) for name in chosen} == wanted


DEVICE_MEMORY = "deepport_sim: host-access: code of the host touches device memory"
ARRIVING = "deepport_sim: staging: code of the host touches pinned memory before it has waited"


@pytest.mark.parametrize(("name", "said"), [("device_memory", DEVICE_MEMORY), ("arriving", ARRIVING)])
def test_what_the_host_may_not_touch(sim: Run, name: str, said: str) -> None:
    """The process ends as by any bad address, but what it was is said: the memory, and the line of Python."""
    done = sim(PROGRAMS / "trap.py", name)
    lines = (PROGRAMS / "trap.py").read_text().splitlines()
    named = [int(n) for n in re.findall(rf"trap\.py\", line (\d+) in {name}", done.stderr)]
    assert done.returncode < 0 and said in done.stderr and named and "# here" in lines[named[0] - 1]


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (("device_memory", "arriving"), "host-access=warn,staging=warn", [DEVICE_MEMORY, ARRIVING]),
        (("device_memory", "arriving"), "host-access=allow,staging=allow", []),
        (("kept_device_memory", "kept_arriving"), "", []),
    ],
)
def test_the_host_may_be_warned_or_let_in(sim: Run, names: tuple[str, ...], settings: str, said: list[str]) -> None:
    done = sim(PROGRAMS / "trap.py", *names, settings=settings)
    assert done.returncode == 0, done.stderr
    late = "tensor(8.)" if names[1].startswith("kept") else "tensor(nan)"  # what has not arrived yet
    assert done.stdout.split() == ["0000803f", late]
    lines = done.stderr.splitlines()
    assert len(lines) == len(said) and all(line.startswith(s) for line, s in zip(lines, said, strict=True))


def test_a_rule_that_does_not_exist_is_refused(sim: Run) -> None:
    done = sim("-m", "deepport", "run", "--device", "sim", "--prompt", "x", settings="hurry=error")
    assert done.returncode == 2 and "no rule is called 'hurry'; there are: mixed-devices" in done.stderr
