"""`deepport run`: the text, what goes where, the summary, interruption."""

import dataclasses
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import Deepport
from gemm import GEMMS

import deepport
from deepport.command.generation import Sampling, generate
from deepport.command.request import Prompt

SUMMARY = ["first token", "prefill", "decode", "peak memory", "device", "served by", "conformance"]


def text_of(checkpoint: Path, prompt: str, tokens: int, **sampling: float) -> str:
    return "".join(deepport.load(checkpoint, "cpu").generate(prompt, max_new_tokens=tokens, **sampling))


def start(*arguments: object, **streams: int) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONWARNINGS": "error", "TERM": "xterm"}
    return subprocess.Popen([sys.executable, "-m", "deepport.run", *map(str, arguments)], env=environment, **streams)


def test_piped_text_is_continued_and_nothing_else_is_written(checkpoint: Path) -> None:
    pipe = subprocess.PIPE
    with start("--model", checkpoint, "--max-new-tokens", 12, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        out, err = process.communicate("naïve words\n".encode())
    assert process.returncode == 0, err
    expected = text_of(checkpoint, "naïve words\n", 12)
    assert out.decode() == (expected if expected.endswith("\n") else expected + "\n")
    lines = err.decode().splitlines()
    assert [line[: len(name)] for line, name in zip(lines, SUMMARY, strict=True)] == SUMMARY
    assert lines[-1].startswith("conformance  no record here that ")
    assert b"\x1b" not in out + err


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_with_what_came_so_far_and_a_whole_terminal(checkpoint: Path) -> None:
    master, slave = pty.openpty()
    arguments = ("--model", checkpoint, "--prompt", "the words", "--max-new-tokens", 200_000)
    # A terminal reads all along: one that nobody reads is full after a few redraws of a slow machine's progress bar.
    with (
        ThreadPoolExecutor(1) as terminal,
        start(*arguments, stdin=slave, stdout=subprocess.PIPE, stderr=slave) as process,
    ):
        os.close(slave)
        reading = terminal.submit(drained, master)
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        shown = reading.result()
    assert process.returncode == 130
    assert rest.endswith(b"\n")
    assert "Traceback" not in shown
    assert "reading the prompt" in shown
    assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l") > 0, "the cursor is hidden"
    assert [line.partition("  ")[0] for line in shown.splitlines()[-2:]] == SUMMARY[-2:]


def drained(descriptor: int) -> str:
    """What a terminal was sent; Linux fails the read where all its writers are gone."""
    found = b""
    try:
        while part := os.read(descriptor, 1 << 16):
            found += part
    except OSError:
        pass
    os.close(descriptor)
    return found.decode()


def test_a_reader_that_leaves_ends_it_quietly(checkpoint: Path) -> None:
    arguments = ("--model", checkpoint, "--prompt", "the words", "--max-new-tokens", 200_000)
    with start(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_json_has_everything_and_the_same_text(command: Deepport, checkpoint: Path) -> None:
    arguments = ("--model", checkpoint, "--prompt", "the words", "--max-new-tokens", 5, "--temperature", 1, "--seed", 3)
    ended = command("run", *arguments, "--json")
    assert ended.code == 0
    found = json.loads(ended.out)
    assert found["text"] == text_of(checkpoint, "the words", 5, temperature=1.0, seed=3)
    assert found["text"] != text_of(checkpoint, "the words", 5, temperature=1.0, seed=4)
    assert (found["new_tokens"], len(found["ids"]), found["finish"]) == (5, 5, "length")
    assert found["prompt_tokens"] == len(deepport.load(checkpoint, "cpu").tokenizer.encode("the words"))  # type: ignore[union-attr]
    assert (found["device"]["backend"], found["dtype"], found["host_calls"]) == ("cpu", "float32", 0)
    assert all(v > 0 for v in found["seconds"].values())
    assert found["tokens_per_second"]["decode"] == pytest.approx(4 / found["seconds"]["decode"])
    assert found["tokens_per_second"]["prefill"] == pytest.approx(
        found["prompt_tokens"] / found["seconds"]["first_token"]
    )
    assert found["peak_memory_bytes"] > 1e6
    assert found["operators"] == len({row["operator"] for row in found["served"]})
    assert set(found["references"]) == {r["operator"] for r in found["served"] if r["implementation"] == "reference"}
    attention = next(row for row in found["served"] if row["operator"] == "sparse_attention")
    assert attention["calls"] == 4 * 5, "four layers, one prefill step and four decode steps"
    assert {"deepport", "python", "torch"} <= found["versions"].keys()
    plain = command("run", *arguments)
    assert plain.out.removesuffix("\n") == found["text"].removesuffix("\n")


def test_one_token_has_no_decode_rate(command: Deepport, checkpoint: Path) -> None:
    ended = command("run", "--model", checkpoint, "--prompt", "x", "--max-new-tokens", 1, "--json")
    assert json.loads(ended.out)["tokens_per_second"]["decode"] is None
    assert "decode       - (1 tokens)" in ended.err


def test_prompts_of_ids_give_ids(command: Deepport, checkpoint: Path) -> None:
    expected = list(deepport.load(checkpoint, "cpu").generate([5, 6, 7], max_new_tokens=4))
    ended = command("run", "--model", checkpoint, "--prompt-ids", "5,6,7", "--max-new-tokens", 4)
    assert ended.out == " ".join(map(str, expected)) + "\n"
    wrong = command("run", "--model", checkpoint, "--prompt-ids", "5,999")
    assert (wrong.code, wrong.err) == (2, "deepport: token id 999 is not in the model's vocabulary of 320\n")


def test_random_prompts_are_drawn_by_the_seed(command: Deepport, checkpoint: Path) -> None:
    def run(seed: int) -> dict[str, object]:
        arguments = ("--model", checkpoint, "--random-prompt", 9, "--max-new-tokens", 4, "--seed", seed, "--json")
        found: dict[str, object] = json.loads(command("run", *arguments).out)
        return found

    first, again, other = run(1), run(1), run(2)
    assert first["ids"] == again["ids"] != other["ids"]
    assert (first["prompt_tokens"], first["text"]) == (9, None)


def test_a_model_without_a_tokenizer_says_how_to_prompt_it(command: Deepport, checkpoint: Path, tmp_path: Path) -> None:
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(checkpoint / file)
    ended = command("run", "--model", tmp_path, "--prompt", "x")
    assert ended.code == 2
    assert ended.err.startswith("deepport: this model has no tokenizer; give the prompt as --prompt-ids 1,2,3 or")


def test_policies_end_with_their_exit_codes(
    command: Deepport, checkpoint: Path, cpu_kernels: Callable[..., None]
) -> None:
    cpu_kernels()
    arguments = ("--model", checkpoint, "--prompt", "x", "--max-new-tokens", 2)
    refused = command("run", *arguments, "--fallback", "error")
    assert (refused.code, refused.out) == (4, "")
    assert refused.err.startswith("deepport: rotary_angles: cpu: no kernel is declared")
    # 4 layers, 2 calls in each, 2 steps
    enough = command("run", *arguments, "--fallback", "host:mhc_pre", "--fallback-budget", 16)
    assert enough.code == 0
    assert enough.err.splitlines()[-1].endswith("16 calls on the host")
    short = command("run", *arguments, "--fallback", "host:mhc_pre", "--fallback-budget", 15)
    assert short.code == 5
    assert short.err.startswith("deepport: mhc_pre: more than 15 calls fell back to the host")
    assert short.err.count("\n") == 1


ACME = """
from deepport.backend import Device, Probe

class Acme:
    name, device_type, simulates = "acme", "cpu", "cuda"

    def probe(self):
        return Probe((Device("Acme One"),), {"acme": "7"})

    def start(self):
        from deepport.runtime import HostRuntime
        return HostRuntime()

    def kernels(self):
        from torch import Tensor
        from deepport import ops
        from deepport.kernel import Kernel

        def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
            return ops.swiglu.reference(gate, up, limit)

        return [Kernel("swiglu", "fused", swiglu)]

backend = Acme()
"""


def test_a_plugin_serves_where_it_is_named(command: Deepport, checkpoint: Path, install: Callable[..., Path]) -> None:
    install("acme", ACME)
    arguments = ("--model", checkpoint, "--prompt", "x", "--max-new-tokens", 2, "--json")
    ended = command("run", "--device", "acme", *arguments)
    found = json.loads(ended.out)
    assert (found["device"]["name"], found["versions"]["acme"]) == ("Acme One", "7")
    assert "swiglu" not in found["references"]
    *_, served, conformance = ended.err.splitlines()
    operators = found["operators"]
    assert served == f"served by    references {operators - 1} of {operators} operators, acme/fused 1"
    assert conformance == (
        "conformance  no record here that swiglu:acme/fused compute what they should; deepport conform --device acme makes one"
    )
    assert found["unproven_kernels"] == ["swiglu:acme/fused"]
    assert json.loads(command("run", *arguments).out)["device"]["backend"] != "acme"


def test_explain_says_before_and_after_who_serves(
    command: Deepport, checkpoint: Path, cpu_kernels: Callable[..., None]
) -> None:
    cpu_kernels(*GEMMS)
    arguments = ("--model", checkpoint, "--prompt", "x", "--max-new-tokens", 2, "--dtype", "bfloat16")
    plain = command("run", *arguments)
    ended = command("run", *arguments, "--explain")
    assert ended.out == plain.out
    before, after = ended.err.split("what was computed")
    assert "by shapes" in before.splitlines()[0]
    for part in (before, after):
        rows = [line.split() for line in part.splitlines()]
        assert any(row[:2] == ["block_linear", "cpu/gemm"] for row in rows)
        assert any(row[:2] == ["linear", "reference"] and "rounded" in row for row in rows), "the router's"
    assert "plan: prefill of 512 tokens" in before
    assert "cpu/gemm" in after.splitlines()[-1]


def test_the_end_of_text_ends_it_and_is_no_text(checkpoint: Path) -> None:
    model = deepport.load(checkpoint, "cpu")
    prompt, sampling = Prompt("the words"), Sampling(6, 0.0, 1.0, 0, 512)
    whole = generate(model, prompt, sampling, None)
    assert whole.finish == "length"
    cut = next(i for i, id in enumerate(whole.ids) if id not in whole.ids[:i] and i > 0)
    model.transformer.config = dataclasses.replace(model.config, eos_token_id=(whole.ids[cut],))
    out = io.StringIO()
    ended = generate(model, prompt, sampling, out)
    assert (ended.finish, ended.ids) == ("stop", whole.ids[: cut + 1])
    assert ended.text == model.tokenizer.decode(whole.ids[:cut])  # type: ignore[union-attr]
    assert out.getvalue() == ended.text + ("" if ended.text.endswith("\n") else "\n")
