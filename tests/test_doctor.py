"""`deepport doctor`: what it says of devices that work, that are broken, and that kill or hang the process that tries them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Deepport
from distributions import backend_source, installed

from deepport import doctor
from deepport.command.doctor import first_fix, line
from deepport.conformance import store
from deepport.conformance.result import DeviceInfo, Report, Result
from deepport.finding import Finding, ok, unknown, wrong

SOURCE = """
from deepport.backend import Device, Probe
from deepport.finding import Finding, ok, wrong


class Acme:
    name, device_type, simulates = "acme", "cpu", ""

    def probe(self):
        {probe}

    def start(self):
        {start}
        from deepport.runtime import HostRuntime
        return HostRuntime()

    def kernels(self):
        return ()
{more}

backend = Acme()
"""
THERE = 'return Probe((Device("Acme One", "a1", 32 << 30),), {"driver": "7"})'


def acme(probe: str = THERE, start: str = "pass", more: str = "") -> str:
    return SOURCE.format(probe=probe, start=start, more=more)


@pytest.fixture
def examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """What the doctor finds of a backend by its source, by check."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def examine(source: str, index: int = 0, seconds: float = 60.0) -> dict[str, Finding]:
        with installed(tmp_path, acme=source):
            return {f.check: f for f in doctor.examine("acme", index, seconds)}

    return examine


def test_a_backend_without_checks_of_its_own_has_a_doctor(examined: Callable[..., dict[str, Finding]]) -> None:
    found = examined(acme())
    assert list(found) == ["driver", "conformance", "devices", "start", "memory", "compute"]
    assert found["driver"] == ok("driver", "7")
    assert found["devices"] == ok("devices", "1 there; 0 is Acme One (a1, 34 GB)")
    assert found["conformance"].state == "unknown"
    assert found["conformance"].fix == "deepport conform --device acme --profile bring-up"
    assert [found[check].state for check in ("start", "memory", "compute")] == ["ok"] * 3
    assert not any(f.fatal for f in found.values())


def test_a_backend_says_more_by_diagnose(examined: Callable[..., dict[str, Finding]]) -> None:
    more = '\n    def diagnose(self):\n        yield wrong("firmware", "is \\x1b[2J old", "update\\nit", advice=True)\n'
    found = examined(acme(more=more))
    assert found["firmware"] == Finding("firmware", "not ok", "is ?[2J old", "update it", advice=True)
    assert "driver" not in found
    assert not found["firmware"].fatal


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('raise KeyError("x")', "the acme backend's own checks failed: KeyError: 'x'"),
        (
            'return ["all is well"]',
            "the acme backend's own checks failed: TypeError: it gave a str, which is no Finding",
        ),
    ],
)
def test_checks_that_break_do_not_hide_the_rest(
    examined: Callable[..., dict[str, Finding]], body: str, said: str
) -> None:
    found = examined(acme(more=f"\n    def diagnose(self):\n        {body}\n"))
    assert found["diagnose"] == unknown("diagnose", said)
    assert found["compute"].state == "ok"


def test_what_the_probe_lacks_is_said_with_its_remedy(examined: Callable[..., dict[str, Finding]]) -> None:
    found = examined(acme('return Probe(reason="no Acme card; buy one")'))
    assert found["devices"] == wrong("devices", "no Acme card", "buy one")
    assert list(found)[-1] == "devices"


def test_a_probe_without_a_reason(examined: Callable[..., dict[str, Finding]]) -> None:
    assert examined(acme("return Probe()"))["devices"].found == "the probe finds none and gives no reason"


def test_a_device_that_is_not_there_is_not_started(examined: Callable[..., dict[str, Finding]]) -> None:
    found = examined(acme(), index=3)
    assert found["devices"] == wrong("devices", "there is no device 3", "the last is 0; check which are made visible")
    assert "start" not in found


def test_a_simulator_is_named(examined: Callable[..., dict[str, Finding]]) -> None:
    found = examined(acme('return Probe((Device("One"),), simulator="Acme in C 2")'))
    assert found["simulator"].found == "Acme in C 2 stands in for the device: what runs here is evidence of no chip"


CRASHES = {
    "a segmentation fault": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its process died of SIGSEGV"),
    "an exit": ("import os; os._exit(9)", "its process ended with exit code 9"),
    "last words": (
        "import os; os.write(2, b'acme: \\x1b[1mno HBM\\n'); os._exit(0)",
        "its process ended with exit code 0; it last wrote: acme: ?[1mno HBM",
    ),
    "a refusal": (
        "from deepport.errors import BackendUnavailable; raise BackendUnavailable('the card is off')",
        "the card is off",
    ),
    "an error": ("raise RuntimeError('broken')", "RuntimeError: broken"),
}


@pytest.mark.parametrize(("start", "said"), CRASHES.values(), ids=CRASHES)
def test_a_start_that_fails_is_a_finding(examined: Callable[..., dict[str, Finding]], start: str, said: str) -> None:
    found = examined(acme(start=start))
    assert found["start"].found == said
    assert found["start"].fatal
    assert found["start"].fix
    assert "compute" not in found


def test_a_probe_that_kills_its_process_is_a_finding(examined: Callable[..., dict[str, Finding]]) -> None:
    found = examined(acme("import os; os.abort()"))
    assert found["backend"].found.startswith("its process died of SIGABRT")
    assert found["backend"].fatal


def test_a_hang_ends_in_time_with_all_that_it_started(
    examined: Callable[..., dict[str, Finding]], tmp_path: Path
) -> None:
    child = tmp_path / "child"
    start = f"import subprocess; p = subprocess.Popen(['sleep', '1000']); open({str(child)!r}, 'w').write(str(p.pid)); p.wait()"
    begin = time.perf_counter()
    found = examined(acme(start=start), seconds=8)
    assert time.perf_counter() - begin < 20
    assert found["start"].found == "no answer in 8 s; its process was ended"
    for _ in range(100):
        if not _lives(int(child.read_text())):
            return
        time.sleep(0.05)
    raise AssertionError("what the hanging process started still runs")


def _lives(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("fault", "check", "said"),
    [
        (
            "n = []; torch.Tensor.__matmul__ = lambda a, b: (n.append(1), torch.mm(a, b) + len(n))[1]",
            "compute",
            "a 64 x 64 product of small integers is wrong",
        ),
        ("torch.Tensor.__matmul__ = None", "compute", "TypeError: "),
        ("HostRuntime.memory = None", "memory", "TypeError: "),
        ("HostRuntime.memory = lambda self: Memory(0, 0, 1 << 30, 64 << 30)", "memory", "1.07 of 68.7 GB are free"),
    ],
)
def test_a_device_that_opens_and_is_broken(
    examined: Callable[..., dict[str, Finding]], fault: str, check: str, said: str
) -> None:
    start = f"import torch; from deepport.backend import Memory; from deepport.runtime import HostRuntime; {fault}"
    found = examined(acme(start=start))
    assert found[check].found.startswith(said)
    assert found[check].state == "not ok"
    assert found[check].fatal == (check == "compute")


# The conformance record of this machine


def record(device: str = "Acme One", driver: str = "7", results: tuple[Result, ...] = ()) -> Report:
    return Report(
        deepport="0.1.0", created="2026-11-22T00:00:00+00:00", backend="acme", device=DeviceInfo(name=device), evidence="E5",
        profile="bring-up", environment={"acme driver": driver}, kernels=(), results=results,
    ).sealed()  # fmt: skip


@pytest.mark.parametrize(
    ("report", "state", "said"),
    [
        (record(), "not ok", "does not conform"),
        (record(driver="6"), "unknown", "the last record is of something else: driver was 6 and is 7"),
        (record(device="Acme Two"), "unknown", "the last record is of something else: the device was Acme Two"),
    ],
)
def test_the_record_is_of_this_machine_as_it_is(
    examined: Callable[..., dict[str, Finding]], report: Report, state: str, said: str
) -> None:
    store.save(report)
    found = examined(acme())["conformance"]
    assert (found.state, found.fatal) == (state, False)
    assert said in found.found
    assert found.fix


def test_of_several_records_the_last_one_counts(examined: Callable[..., dict[str, Finding]]) -> None:
    older = store.save(record())
    os.utime(older, (0, 0))
    store.save(record(driver="6").model_copy(update={"profile": "inference"}).sealed())
    assert "driver was 6 and is 7" in examined(acme())["conformance"].found


def test_a_damaged_record_is_said(examined: Callable[..., dict[str, Finding]]) -> None:
    path = store.save(record())
    path.write_text("{")
    assert examined(acme())["conformance"].state == "unknown"


# The command


def test_the_cpu_is_well(command: Deepport) -> None:
    ended = command("doctor", "--device", "cpu")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[-1].startswith("deepport run --device cpu:0 works here")
    assert all(text[:7].strip() in ("ok", "not ok", "unknown") for text in lines[:-1])


def test_the_first_fix_is_the_last_line(command: Deepport, tmp_path: Path) -> None:
    source = acme(
        'return Probe(reason="no card; buy one")',
        more='\n    def diagnose(self):\n        return [wrong("a", "b", "c", advice=True), wrong("d", "e", "f")]\n',
    )
    with installed(tmp_path, acme=source):
        text, told = command("doctor", "--device", "acme"), command("doctor", "--device", "acme", "--json")
    assert (text.code, told.code, text.err, told.err) == (3, 3, "", "")
    assert text.out.splitlines()[-1] == "first: f"
    found = json.loads(told.out)
    assert (found["device"], found["works"], found["fix"]) == ("acme:0", False, "f")
    assert [f["check"] for f in found["findings"]] == ["a", "d", "conformance", "devices"]
    assert found["findings"][1] == {"check": "d", "state": "not ok", "found": "e", "fix": "f", "advice": False}


def test_advice_alone_lets_a_run_work(command: Deepport, tmp_path: Path) -> None:
    more = '\n    def diagnose(self):\n        return [wrong("a", "b", "c", advice=True)]\n'
    with installed(tmp_path, acme=acme(more=more)):
        ended = command("doctor", "--device", "acme")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "deepport run --device acme:0 works here; to look at: c"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--device nonsense", 3, "no backend is called 'nonsense'; installed: cpu, "),
        ("--device cpu:x", 2, "--device cpu:x: what follows the colon is a device number, as in cpu:0"),
        ("--device cpu:9", 3, "there is no device 9"),
        ("--device cpu --timeout 0", 2, "Invalid value for '--timeout'"),
    ],
)
def test_mistakes(command: Deepport, arguments: str, code: int, said: str) -> None:
    ended = command("doctor", *arguments.split())
    assert ended.code == code
    assert said in ended.out + ended.err


def test_its_own_process_imports_no_torch_and_is_fast(tmp_path: Path) -> None:
    with installed(tmp_path, acme=acme('return Probe(reason="no card; buy one")')):
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        run = [sys.executable, "-X", "importtime", "-m", "deepport", "doctor", "--device", "acme"]
        begin = time.perf_counter()
        ended = subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert time.perf_counter() - begin < 5  # well below 1 s where nothing else runs
    imported = {text.split("|")[-1].strip() for text in ended.stderr.splitlines()}
    assert "deepport.doctor" in imported
    assert not imported & {"torch", "torch_npu", "deepport_acme"}
    assert ended.returncode == 3


def test_a_reader_that_goes_ends_the_child(tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = f"import os, time; open({str(child)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    with installed(tmp_path, acme=acme(start=start)):
        found = doctor.examine("acme", 0, 60)
        while next(found).check != "devices":  # what comes next is its start
            pass
        while not child.exists() or not child.read_text():
            time.sleep(0.05)
        process = int(child.read_text())
        assert _lives(process)
        found.close()
    assert not _lives(process)


def test_the_child_looks_without_torch(tmp_path: Path) -> None:
    """Until the device is started nothing needs it, on any of our own backends."""
    code = (
        "import sys; from deepport import doctor, backend\n"
        "for b in ('cpu', 'cuda', 'rocm', 'npu'):\n"
        "    found = backend.get(b); list(doctor._diagnosed(found, found.probe())); doctor._record(b, found.probe())\n"
        "assert 'torch' not in sys.modules and 'torch_npu' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "XDG_DATA_HOME": str(tmp_path)})


def test_lines_are_lines() -> None:
    found = wrong("a\nb", "c\x07" + "d" * 1000, "e")
    assert line(found).count("\n") == 1
    assert "\x07" not in line(found)
    assert line(ok("check", "found")) == f"{'ok':<7}  {'check':<30}  found\n"


def test_fixes_are_ordered() -> None:
    advice, fatal = wrong("a", "", "look", advice=True), wrong("b", "", "do")
    assert first_fix([advice, fatal]) == "do"
    assert first_fix([ok("c", ""), advice]) == "look"
    assert first_fix([unknown("c", "", "try")]) == ""


def test_a_backend_that_cannot_be_loaded_is_a_finding(tmp_path: Path) -> None:
    with installed(tmp_path, acme="raise RuntimeError('no licence')"):
        (found,) = doctor.examine("acme", 0, 60)
    assert (found.check, found.fatal) == ("backend", True)
    assert "the acme backend cannot be loaded: RuntimeError: no licence" in found.found


def test_kernels_that_a_run_would_refuse_are_a_finding(tmp_path: Path) -> None:
    source = backend_source("acme", "@kernel('nonsense')\ndef f(x):\n    return x\n")
    with installed(tmp_path, acme=source):
        found = {f.check: f for f in doctor.examine("acme", 0, 60)}
    assert found["start"].fatal
    assert "no operator is called 'nonsense'" in found["start"].found
