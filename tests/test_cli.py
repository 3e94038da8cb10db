"""What is common to all commands: one line and the right exit code for every mistake; and `deepport backends`."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Deepport

import deepport_model
from deepport import backend
from deepport.command.request import Policy, Prompt
from deepport.errors import BadInput, DeepportError

absent = pytest.mark.skipif(bool(backend.get("npu").probe().devices), reason="this machine has an NPU")


@absent
def test_an_absent_device_ends_at_once_with_its_reason(checkpoint: Path) -> None:
    begin = time.perf_counter()
    arguments = (
        "-X",
        "importtime",
        "-m",
        "deepport.run",
        "--device",
        "npu",
        "--prompt",
        "x",
        "--model",
        str(checkpoint),
    )
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert time.perf_counter() - begin < 5
    lines = ended.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    assert "deepport.run" in imported or "deepport.command.request" in imported
    assert "torch" not in imported
    said = [line for line in lines if not line.startswith("import time:")]
    assert ended.returncode == 3
    assert ended.stdout == ""
    assert said == [f"deepport: npu: {backend.get('npu').probe().reason}"]


@absent
@pytest.mark.parametrize("name", ["run", "plan"])
def test_an_absent_device_is_never_replaced(name: str, command: Deepport, checkpoint: Path) -> None:
    prompt = ("--prompt", "x") if name == "run" else ()
    ended = command(name, "--device", "npu", "--model", checkpoint, *prompt)
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith("deepport: npu: ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("run --device nonsense", 3, "no backend is called 'nonsense'; installed: cpu, "),
        ("run --device cpu:x", 2, "--device cpu:x: what follows the colon is a device number, as in cpu:0"),
        ("run --device cpu:7", 3, "cpu: there is no device 7; the last is 0"),
        ("run --prompt x --file y", 2, "--prompt and --file are both prompts; give one"),
        ("run --prompt-ids 1 --random-prompt 5", 2, "--prompt-ids and --random-prompt are both prompts; give one"),
        ("run --prompt-ids 1,b", 2, "--prompt-ids '1,b': must be numbers with commas between them, as in 1,2,3"),
        ("run", 2, "the prompt is empty"),
        ("run --prompt=", 2, "the prompt is empty"),
        ("run --file /nowhere", 2, "/nowhere: cannot be read: No such file or directory"),
        ("run --file /", 2, "/: cannot be read: Is a directory"),
        ("run --prompt x --model nonsense", 2, "nonsense: is neither a checkpoint's directory nor a preset; presets: demo, "),
        ("run --prompt x --model mini --max-new-tokens 0", 2, "Invalid value for '--max-new-tokens'"),
        ("run --prompt x --chunk 0", 2, "Invalid value for '--chunk'"),
        ("run --prompt x --dtype int3", 2, "Invalid value for '--dtype'"),
        ("run --prompt x --nonsense", 2, "No such option: --nonsense"),
        ("run --prompt x --fallback", 2, "Option '--fallback' requires an argument"),
        ("run --prompt x --fallback host", 2, "--fallback host: is none of: device, error, host:operator"),
        ("run --prompt x --fallback device:rotary", 2, "--fallback device:rotary: is none of"),
        ("run --prompt x --fallback host:nonsense", 2, "--fallback: no operator is called 'nonsense'; there are: block_linear, "),
        ("run --prompt x --fallback-budget 3", 2, "--fallback-budget counts calls to the host"),
        ("plan --model nonsense", 2, "nonsense: is neither a checkpoint's directory nor a preset"),
        ("nonsense", 2, "No such command 'nonsense'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(command: Deepport, arguments: str, code: int, said: str) -> None:
    ended = command(*arguments.split())
    assert ended.err.startswith(f"deepport: {said}")
    assert ended.err.count("\n") == 1
    assert (ended.code, ended.out) == (code, "")


def test_a_file_that_is_no_text_is_refused(command: Deepport, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"ab\xff")
    ended = command("run", "--file", tmp_path / "x")
    assert (ended.code, ended.err) == (2, f"deepport: {tmp_path / 'x'}: not UTF-8 at byte 2\n")


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(BadInput, match="there is no prompt; give --prompt TEXT or --file PATH, or pipe a text in"):
        Prompt.read(None, None, None, None)
    assert Prompt.read("x", None, None, None) == Prompt("x")


def noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (noted(ValueError("a"), "in b"), 1, "internal error: ValueError: a; in b; rerun with --traceback"),
        (ValueError("first\nsecond"), 1, "internal error: ValueError: first second; rerun with --traceback"),
        (MemoryError(), 1, "out of memory: "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), 1, "out of memory: Default"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (DeepportError("no"), 1, "no"),
    ],
)
def test_failures(
    command: Deepport, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(deepport_model, "load", fail)
    ended = command("run", "--prompt", "x", "--model", "mini")
    assert ended.code == code
    assert ended.err.startswith(f"deepport: {said}")
    assert ended.err.count("\n") == 1
    if not isinstance(error, KeyboardInterrupt):
        with pytest.raises(type(error)):
            command("run", "--prompt", "x", "--model", "mini", "--traceback")


def test_policies() -> None:
    assert Policy.parse("device", 0) == Policy()
    assert Policy.parse("error", 0) == Policy("error")
    assert Policy.parse("host:rotary,swiglu", 7) == Policy("host", frozenset(("rotary", "swiglu")), 7)


@pytest.mark.parametrize("name", ["run", "plan"])
def test_help_has_examples_and_exit_codes(name: str, command: Deepport) -> None:
    ended = command(name, "--help")
    assert (ended.code, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    assert f"deepport {name} --" in text
    assert "3 device absent" in text


def test_backends_are_listed_with_devices_or_reasons(
    command: Deepport, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("broken", "raise RuntimeError('[no] card')")
    listed = {b.name: b for b in backend.backends()}
    ended = command("backends")
    assert (ended.code, ended.err) == (0, "")
    rows = {line.split()[0]: line for line in ended.out.splitlines() if line}
    assert rows.keys() == {"backend", *listed}
    assert listed["cpu"].probe.devices[0].name in rows["cpu"]
    assert "GB" in rows["cpu"]
    assert rows["broken"].endswith("RuntimeError: [no] card")
    for name, found in listed.items():
        assert found.probe.devices or rows[name].split(maxsplit=1)[1] == f"absent: {found.probe.reason}"
    found = json.loads(command("backends", "--json").out)["backends"]
    assert [b["name"] for b in found] == list(listed)
    assert all(b["probe"]["devices"] or b["probe"]["reason"] for b in found)


def test_the_package_is_the_command() -> None:
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    ended = subprocess.run(
        [sys.executable, "-m", "deepport", "plan", "--nonsense"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("deepport: No such option")


def test_torch_loads_no_vendors_package_by_itself(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", "1")
    assert command("backends").code == 0
    assert os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "0"
