"""A whole run and its command: what is measured, kept, left out, refused and written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Deepport

from bench import tiny
from deepport.bench import html, machine, result, run, terminal, wholes
from deepport.bench.peak import MEMORY, Peak, torch_peaks
from deepport.bench.peers import process
from deepport.bench.result import Figure, Report
from deepport.bench.run import Request
from deepport.bench.wholes import Asked
from deepport_model.checkpoint import save_weights

BEYOND = 1 << 20


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of half a megabyte, so that nothing large is copied or read; and torch's own peaks."""
    monkeypatch.setattr(machine, "beyond", lambda caches, device: BEYOND)
    monkeypatch.setattr(run, "peaks", lambda name, device, beyond: fast(device, beyond))


def fast(device: torch.device, beyond: int) -> list[Peak]:
    """What no figure of these tests exceeds: the rate of torch's, times a million. Its products are small: without AVX-512 torch
    takes a minute for one of bfloat16 by 2048 rows."""

    def boosted(peak: Peak) -> Peak:
        def start() -> Callable[[], float]:
            work = peak.start()
            return lambda: 1e6 * work()

        return Peak(peak.name, peak.unit, start, "a test")

    return [boosted(p) for p in torch_peaks(device, beyond, size=64)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "model"
    save_weights(tiny.transformer(), tiny.CONFIG, path)
    return path


class Listener:
    """Interrupts when it has heard enough."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.heard: list[Figure | None] = []
        self._most = most

    def begun(self, figures: int) -> None:
        self.figures = figures

    def doing(self, what: str) -> None:
        if len(self.heard) >= self._most:
            raise KeyboardInterrupt

    def found(self, figure: Figure | None) -> None:
        self.heard.append(figure)


def request(**changes: Any) -> Request:
    asked: dict[str, Any] = {
        "backend": "cpu", "index": 0, "device": "a test's", "operators": ("rms_norm",), "model": None,
        "dtype": torch.bfloat16, "reference": False, "rounds": 2, "seconds": 300.0,
    }  # fmt: skip
    return Request(**(asked | changes))


def whole(folder: Path, *peers: str) -> Asked:
    return Asked(str(folder), "cpu:0", None, "plain", (40,), (20, 60), 3, peers)


def test_operators_by_name_have_all_their_shapes() -> None:
    listener = Listener()
    report = run.run(request(), listener)
    assert {f.name for f in report.figures} == {"rms_norm"}
    assert {f.model for f in report.figures} == {"mini", "v4-flash"}
    assert len(report.figures) == listener.figures == len(listener.heard)
    assert {limit.name for limit in report.limits} >= {MEMORY, "gemm bfloat16", "gather 512 B"}
    assert (report.stopped, report.implausible, report.left_out) == ("", (), ())
    assert report.machine.versions["torch"]


def test_what_streams_is_also_timed_warm() -> None:
    cold = request(operators=("mhc_head",)).works()
    both = request(operators=("mhc_head",), warm=True).works()
    assert [w.label for w in both if w.streamed] == [w.label for w in cold]
    assert [w.label for w in both if not w.streamed] == [f"{w.label}, warm" for w in cold]
    assert len(request(warm=True).works()) == len(request().works()), "rms_norm streams nothing"


def test_a_model_alone(folder: Path) -> None:
    report = run.run(request(operators=None, model=whole(folder)), Listener())
    assert [(f.kind, f.tokens, f.depth) for f in report.figures] == [
        ("prefill", 40, 0), ("decode", 1, 20), ("decode", 1, 60)
    ]  # fmt: skip
    assert all(f.dtype == "float32" for f in report.figures)


@pytest.mark.parametrize("most", [0, 3])
def test_ctrl_c_keeps_what_was_measured(most: int) -> None:
    report = run.run(request(), Listener(most))
    assert report.stopped == "interrupted"
    assert len(report.figures) == most
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_what_time_is_not_left_for_is_told(folder: Path) -> None:
    report = run.run(request(seconds=1e-9, operators=("rms_norm",), model=whole(folder)), Listener())
    assert not report.figures
    assert len(report.left_out) == 11
    assert "no time was left" in report.left_out[0]
    assert "--seconds gives more" in report.left_out[-1]


def test_a_peer_whose_logits_differ_is_not_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are written from another model than ours."""

    class Other(process.PeerProcess):
        def __init__(self, start: process.Start) -> None:
            self.version, self.settings = "1", {}

        def reset(self) -> None: ...

        def feed(self, ids: Any) -> float:
            return 0.0

        def logits(self) -> torch.Tensor:
            return torch.ones(tiny.CONFIG.vocab_size)

        def close(self) -> None: ...

    monkeypatch.setattr(wholes, "PeerProcess", Other)
    report = run.run(request(operators=None, model=whole(folder, "transformers")), Listener())
    (peer,) = report.peers
    assert re.fullmatch(r"its logits differ from ours by [\d.]+, and rounding explains 0.001 .*", peer.refused)
    assert peer.difference is not None
    assert peer.allowed == 0.001
    assert len(report.figures) == 3
    assert all(f.against == () for f in report.figures)


def test_a_peer_that_fails_costs_no_figure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(start: process.Start) -> None:
        raise process.PeerFailed("its process was ended by SIGILL")

    monkeypatch.setattr(wholes, "PeerProcess", fail)
    report = run.run(request(operators=None, model=whole(folder, "transformers")), Listener())
    assert [p.refused for p in report.peers] == ["its process was ended by SIGILL"]
    assert len(report.figures) == 3


def test_the_schema_file_is_current() -> None:
    """After a change: python -m deepport.bench.result > deepport/bench/schema.json, and a new version where old files can no
    longer be read."""
    published = Path(result.__file__).with_name("schema.json")
    assert json.loads(published.read_text()) == Report.model_json_schema()


def test_the_command_writes_what_it_shows(command: Deepport, folder: Path, tmp_path: Path) -> None:
    files = {"--json": tmp_path / "b.json", "--html": tmp_path / "b.html"}
    options = [str(x) for pair in files.items() for x in pair]
    ended = command(
        "bench", "--model", folder, "--prefill", "30", "--depth", "20,40", "--tokens", "2", "--rounds", "2", *options
    )
    assert ended.code == 0, ended.err
    report = Report.model_validate_json(files["--json"].read_text())
    assert len(report.figures) == 3
    assert report.requested.startswith("deepport bench --model")
    for text in (ended.out, files["--html"].read_text()):
        assert MEMORY in text
        assert "one token after 40" in text
        assert "tokens/s" in text
    page = files["--html"].read_text()
    assert "://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page), "nothing is loaded"
    assert page.count("<svg") == 2, "times by depth, and the roofline"


def test_a_figure_beyond_the_limits_fails_the_command(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(name: str, device: torch.device, beyond: int) -> list[Peak]:
        return [
            Peak(MEMORY, "B/s", lambda: lambda: 1.0, "a test"),
            Peak("read L1", "B/s", lambda: lambda: 1.0, "a test", 1 << 40),
        ]

    monkeypatch.setattr(run, "peaks", slow)
    ended = command("bench", "--operator", "mhc_post", "--rounds", "1")
    assert ended.code == 1
    first = ended.out.splitlines()[0]
    assert first.startswith("IMPLAUSIBLE mhc_post mini 1 tokens, 4x1024, plain: ")
    assert "and the largest probe of read L1 gave" in first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--operator nonsense", "--operator: no operator is called 'nonsense'; there are: "),
        ("--operator linear --against llama.cpp", "--against llama.cpp is for whole models: add --model"),
        ("--against vllm", "--against vllm: is none of: reference, transformers, llama.cpp"),
        ("--model mini --format q4_k", "--format q4_k: 'q4_k' is none of plain, fp8, int8, mxfp4"),
        ("--depth 0", "--depth 0: must be positive numbers with commas between them, as in 512,2048"),
        ("--prefill 5,x", "--prefill 5,x: must be positive numbers with commas between them"),
        ("--rounds 0", "Invalid value for '--rounds'"),
        ("--model /nowhere", "/nowhere: is neither a checkpoint's directory nor a preset"),
        ("--device npu:x", "--device npu:x: what follows the colon is a device number"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(command: Deepport, arguments: str, said: str) -> None:
    ended = command("bench", *arguments.split())
    assert said in ended.err
    assert ended.err.splitlines()[-1].startswith("deepport: ")
    assert (ended.code, ended.out) == (2, "")


def test_a_peer_that_is_not_installed_says_how_to(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wholes, "find_spec", lambda name: None)
    ended = command("bench", "--model", "mini", "--against", "llama.cpp")
    assert ended.code == 2
    assert ended.err.startswith(
        "deepport: --against llama.cpp: llama-cpp-python is not installed: pip install 'deepport[bench]'"
    )
    assert ended.err.count("\n") == 1


def test_a_page_escapes_what_is_foreign() -> None:
    report = run.run(request(command="<script>alert(1)</script>"), Listener(2))
    page = html.render(report.model_copy(update={"implausible": ("<b>\x1b[31m",), "left_out": ("<i>",)}))
    assert "<script>alert" not in page
    assert "&lt;b&gt;" in page
    assert "&lt;i&gt;" in page
    assert "\x1b" not in page
    assert terminal.who(report.figures[0]) == report.figures[0].served[0].implementation
