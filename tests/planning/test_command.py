"""`deepport plan --chip`: what a newcomer asks, in one command each; as text, JSON and a page."""

import io
import json
from pathlib import Path

import pytest
from commands import Deepport

from deepport.chips import shelf
from deepport.planning import check, terminal
from deepport.planning.check import Checked, Line, Request
from deepport.planning.estimate import Load
from deepport.planning.html import render
from deepport.planning.plan import Asked, Plan, make


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "own", lambda: tmp_path / "chips")


def test_does_v4_flash_fit_on_eight_910b_and_what_bounds_it(command: Deepport) -> None:
    ended = command("plan", "--model", "v4-flash", "--chip", "910b", "--devices", 8)
    assert (ended.code, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    assert "does not fit: 71.2 GB of 68.7 GB on each device would fit with - 9 devices: 63.3 GB on each" in text
    assert "--format int8+int8: 35.8 GB on each" in text
    assert (
        "decode: if it did fit, at most 480 tokens/s (upper bound by model): a step of 1 token takes at least 2.08 ms, bound by "
        "memory" in text
    )
    assert text.startswith("v4-flash in bfloat16, on 8 x 910b2 ")
    assert max(map(len, ended.out.splitlines())) <= 100
    assert "deepport itself runs a model on one device" in text
    assert "performance" not in text.replace("none a performance", "")


def test_what_changes_with_engram_on_the_host(command: Deepport) -> None:
    arguments = ("plan", "--model", "v4-flash-engram", "--chip", "h100", "--devices", 8, "--format", "mxfp4+fp8+fp8")
    found = json.loads(command(*arguments, "--engram", "host", "--json").out)
    assert found["meaning"] == "upper bounds by model, no performance"
    assert found["fits"] is True and found["host_bytes"] == pytest.approx(202.8e9, rel=0.01)
    changes = {v["change"]: v for v in found["what_if"]}
    assert changes["--engram device"]["device_bytes"] - found["device_bytes"] == pytest.approx(202.8e9 / 8, rel=0.01)
    assert [f["layer"] for f in found["decode"]["fetches"]] == [1, 14]
    assert all(f["hidden"] for f in found["decode"]["fetches"] + found["prefill"]["fetches"])
    assert found["engram_claims"]["parameters"] == 196_613_849_600
    memory = {p["name"]: p for p in found["memory"]}
    assert memory["engram tables"]["place"] == "host" and memory["engram tables"]["device_bytes"] == 0
    assert found["chip"]["sources"], "a plan names where its numbers are from"


def test_the_text_says_what_lies_on_the_host() -> None:
    text = io.StringIO()
    terminal.render(plan(), False, text)
    shown = " ".join(text.getvalue().split())
    assert "82.5 MB of the host's memory, 0.00413% of 1 x 2 TB" in shown
    assert "engram's tables on the host instead of the devices; in brackets what the design promises" in shown
    assert "host's memory for 41.3 M parameters: 82.5 MB, 200 GB for 100 G [200 GB]" in shown
    assert "engram layer rows a device arrive after cover hidden a link needs 1 2.05 kB" in shown


def plan(model: str = "mini-engram", chip: str = "h100", **changes: object) -> Plan:
    load = Load(4096, 2, 128, "host" if "engram" in model else "device")
    return make(Asked(model, None, "plain", shelf.find(chip), 2, load))


def test_the_page_shows_all_of_it_and_loads_nothing() -> None:
    page = render(plan())
    assert page.count("<svg") == 3 and "http-equiv" in page
    assert "upper bound by model" in page and "engram layer" in page
    assert "NVIDIA H100 Tensor Core GPU" in page
    assert "Planned, and measured" not in page


def test_a_chip_of_which_little_is_known_is_planned_all_the_same(command: Deepport, tmp_path: Path) -> None:
    ended = command("plan", "--model", "tiny", "--chip", "k100-ai", "--html", tmp_path / "page.html")
    assert "decode: unknown: the profile has neither bandwidth nor arithmetic" in ended.out
    assert "fits: " in ended.out
    assert "unknown: the profile has neither" in (tmp_path / "page.html").read_text()
    assert "each device holds" in command("plan", "--model", "tiny", "--chip", "kunlun-2").out


def test_a_mapped_file_is_told_warm_and_cold(command: Deepport, tmp_path: Path) -> None:
    known = json.loads(command("chips", "h100", "--json").out)
    known["file"] = {"256": {"value": 2e6, "source": next(iter(known["sources"]))}}
    (tmp_path / "mine.json").write_text(json.dumps(known | {"name": "mine"}))
    arguments = ("plan", "--model", "mini-engram", "--engram", "mmap", "--chip")
    found, unknown = (command(*arguments, chip).out for chip in (tmp_path / "mine.json", "h100"))
    assert "warm yes, cold no: " in found and "warm yes, cold unknown" in unknown
    assert max(map(len, (found + unknown).splitlines())) <= 100
    assert "rates are warm: its pages are in memory\n" in found
    assert "how fast it is read cold, the profile does not say" in " ".join(unknown.split())


def test_all_operators_are_shown_on_request(command: Deepport) -> None:
    arguments = ("plan", "--model", "tiny", "--chip", "h100")
    short, long = (command(*arguments, *more).out for more in ((), ("--explain",)))
    assert short.count("\n") < long.count("\n") and "rotary_angles" in long


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--chip h100 --device cpu", "--chip plans memory and time; who serves is planned without it"),
        ("--chip nothing", "--chip nothing: is no file that ends in .json, and none of: "),
        ("--chip h100 --model tiny --context 9999999", "--context 9999999: tiny has a context of 1048576 tokens"),
        (
            "--chip h100 --model tiny --engram host",
            "--engram host: tiny has no Engram; v4-flash-engram and mini-engram have",
        ),
        (
            "--chip h100 --model tiny --format fp3",
            "--format fp3: 'fp3' is none of plain, fp8, int8, mxfp4; as in mxfp4+int8",
        ),
        ("--chip h100 --format int8+int8+int8+int8", "--format int8+int8+int8+int8: names 4 formats"),
        ("--check --chip h100", "--check plans for one device of this machine, probed now, and one sequence"),
    ],
)
def test_a_mistake_is_one_line(command: Deepport, arguments: str, said: str) -> None:
    ended = command("plan", *arguments.split())
    assert ended.code == 2 and ended.err.startswith(f"deepport: {said}") and ended.err.count("\n") == 1


def test_lines_of_a_check_hold_or_say_why() -> None:
    memory = [Line("memory", 100.0, measured, bound=False) for measured in (97.1, 102.9, 96.0, 104.0)]
    assert [line.holds for line in memory] == [True, True, False, False]
    assert memory[2].verdict == "not within 3%: something else took memory meanwhile, or the plan is wrong"
    times = [Line("decode", 2.0, measured) for measured in (2.0, 5.0, 1.9)]
    assert [line.holds for line in times] == [True, True, False]
    assert times[1].ratio == 2.5 and times[2].verdict.startswith("below the bound")
    found = Checked(plan(), [*memory[:2], times[0]], times[:1])
    assert found.holds and not Checked(plan(), memory, []).holds
    page = render(found.plan, found)
    assert "Planned, and measured on this machine" in page and "within 3%" in page
    assert terminal.checked_line(times[1]) == ("decode", "at least 2 s", "5 s", "2.5", "not below the bound")


@pytest.mark.slow
def test_a_plan_is_checked_against_a_run_here() -> None:
    """The memory of so small a model is lost in the process's; its times are not below their bounds."""
    request = Request("tiny", "cpu", 0, "this machine", None, "plain", 200, 64, rounds=2)
    assert (request.prompt, request.capacity) == (128, 146)
    found = check.check(request)
    _, prefill, decode = found.lines
    assert prefill.what == "prefill of 128 tokens" and prefill.ratio >= 1 and decode.ratio >= 1
    assert {"linear", "moe_experts", "sparse_attention"} <= {line.what for line in found.operators}
    assert found.plan.asked.chip.sources["probe"].by == "measured"
