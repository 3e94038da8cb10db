"""From wrong logits to the guilty kernel, and to a bundle that fails again; honest kernels are acquitted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Deepport
from faults import FAULTY, HONEST, INDEXER, acme

from deepport.backend import Memory
from deepport.conformance import bundle
from deepport.conformance.bisect import Bisection, _leader, bisect
from deepport.conformance.decisions import Decisions, Directed, everything
from deepport.conformance.rerun import rerun
from deepport.conformance.trace import Script, on_host, play
from deepport.errors import BadInput
from deepport.runtime import HostRuntime
from deepport_model import load

Distribution = Callable[..., Path]

PROMPT = tuple(i * 37 % 320 for i in range(140))
"""Past a compressed entry of 128 tokens."""

BROKEN = {
    "window": "sparse_attention",
    "bf16 sums": "linear",
    "stale": "rms_norm",
    "rounded": "swiglu",
    "dropped expert": "moe_experts",
    "selection": "index_topk",
    "scale": "mhc_post",
}


def bisected(checkpoint: Path, folder: Path, dtype: str = "float32") -> Bisection:
    return bisect(load(checkpoint, "acme", dtype), PROMPT, 3, folder)


def guilty(found: Bisection) -> list[str]:
    return sorted(c.operator for c in found.culprits)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_faulty_kernel_is_named_and_its_call_fails_again(
    fault: str, install: Distribution, checkpoint: Path, tmp_path: Path
) -> None:
    """Among honest kernels, and from its logits alone."""
    operator = BROKEN[fault]
    honest = [source for name, source in HONEST.items() if name != operator]
    install("acme", acme(*honest, FAULTY[fault]))
    found = bisected(checkpoint, tmp_path)
    assert not found.kernels.right and found.references.right and not found.several
    assert guilty(found) == [operator]
    (culprit,) = found.culprits
    assert {s.operator for s in found.swaps if s.without.right} == {operator}
    assert culprit.gate is not None and culprit.gate.status == "fail"
    assert culprit.folder is not None
    again = rerun(culprit.folder)
    assert not again.passes and again.changed == ()
    assert again.implementation == "acme/fast"


def test_the_first_wrong_call_is_at_its_place(install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    """A window that is a token too short has no effect before the window is full."""
    install("acme", acme(FAULTY["window"]))
    (culprit,) = bisected(checkpoint, tmp_path).culprits
    assert (culprit.site, culprit.call, culprit.calls) == ("layers.0.attn", 1, 16)
    short = bisect(load(checkpoint, "acme"), PROMPT[:127], 3, tmp_path)
    (culprit,) = short.culprits
    assert (culprit.site, culprit.call) == ("layers.0.attn", 5), "the second step's first layer"
    recorded = bundle.read(tmp_path / "sparse_attention.acme.fast")
    assert (recorded.site, recorded.call, recorded.backend) == ("layers.0.attn", 5, "acme")
    assert bisect(load(checkpoint, "acme"), PROMPT[:20], 3, tmp_path).kernels.right


@pytest.mark.parametrize(
    "faults", [("window", "stale"), ("bf16 sums", "rounded"), ("dropped expert", "scale", "window")]
)
def test_several_guilty_kernels_are_all_named(
    faults: tuple[str, ...], install: Distribution, checkpoint: Path, tmp_path: Path
) -> None:
    operators = {BROKEN[f] for f in faults}
    honest = [source for name, source in HONEST.items() if name not in operators]
    install("acme", acme(*honest, *(FAULTY[f] for f in faults)))
    found = bisected(checkpoint, tmp_path)
    assert found.several and guilty(found) == sorted(operators)
    assert all(c.folder is not None and not rerun(c.folder).passes for c in found.culprits)


def test_a_kernel_that_misleads_choices_only_is_named(install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    install("acme", acme(*HONEST.values(), INDEXER.replace("HEADS", "4")))
    found = bisected(checkpoint, tmp_path)
    assert found.wrong == ("indexer queries rms",)
    assert guilty(found) == ["rotary"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_honest_kernels_are_acquitted(dtype: str, install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    install("acme", acme(*HONEST.values()))
    found = bisected(checkpoint, tmp_path, dtype)
    assert found.kernels.right, found.kernels
    assert (found.served, found.swaps, found.culprits) == (3, (), ())
    assert not list(tmp_path.glob("*.*.*"))


@pytest.mark.parametrize("fault", ["window", "stale", "dropped expert", "selection"])
def test_in_bfloat16_too(fault: str, install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    install("acme", acme(FAULTY[fault], *(s for n, s in HONEST.items() if n != BROKEN[fault])))
    assert guilty(bisected(checkpoint, tmp_path, "bfloat16")) == [BROKEN[fault]]


NESTED = """
def moe_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = "plain",
) -> Tensor:
    rows, offsets, inverse = ops.moe_dispatch(x, ids, w13.shape[0])
    gate, up = ops.grouped_linear(rows, w13, w13_scale, format, offsets).chunk(2, -1)
    y = ops.grouped_linear(ops.swiglu(gate, up, limit), w2, w2_scale, format, offsets)
    return ops.moe_combine(y, weights, inverse, ids)
"""

GROUPED = """
def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    y = x.new_zeros(x.shape[0], w.shape[1])
    for e in range(len(w)):
        low, high = int(offsets[e]), int(offsets[e + 1])
        y[low:high] = (x[low:high].bfloat16() @ w[e].T.bfloat16()).float()
    return y
"""


def test_the_inner_of_two_nested_kernels_is_guilty(install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    """Swapping either brings the logits back; only one computes wrongly."""
    install("acme", acme(NESTED, GROUPED))
    found = bisected(checkpoint, tmp_path)
    assert {s.operator for s in found.swaps if s.without.right} == {"moe_experts", "grouped_linear"}
    assert guilty(found) == ["grouped_linear"]


def test_calls_that_pass_one_by_one_can_err_too_far_together(
    install: Distribution, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme", acme(FAULTY["rounded"]))
    monkeypatch.setattr("deepport.conformance.shadow.judge", lambda *_: [])
    (culprit,) = bisected(checkpoint, tmp_path).culprits
    assert (culprit.operator, culprit.gate, culprit.folder) == ("swiglu", None, None)


def test_a_result_of_the_wrong_shape_is_told(install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    source = (
        FAULTY["rounded"].replace(".to(gate.dtype)", ".to(torch.bfloat16)").replace("silu(g).bfloat16()", "silu(g)")
    )
    install("acme", acme(source))
    (culprit,) = bisected(checkpoint, tmp_path).culprits
    assert culprit.gate is not None and culprit.gate.metric == "shapes"
    assert culprit.gate.detail.startswith("output 0 is (torch.bfloat16")
    assert bundle.read(tmp_path / "swiglu.acme.fast").got[0].dtype == torch.bfloat16


def test_a_model_on_the_host_is_the_same_model(checkpoint: Path) -> None:
    transformer, script = load(checkpoint, "cpu").transformer, Script(((1, 2, 3),), 2, 8)
    host = on_host(transformer)
    assert host is not transformer and host.layers[0] is not transformer.layers[0]
    left, right = (play(t, script, Directed(Decisions(), leads=True, without=everything)) for t in (transformer, host))
    assert all(torch.equal(left[n], right[n]) for n in left)


def test_a_model_that_no_oracle_can_hold_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = load(checkpoint, "cpu").transformer.to("meta")
    monkeypatch.setattr(HostRuntime, "memory", lambda self: Memory(0, 0, free=10, total=10))
    with pytest.raises(
        BadInput, match="do not fit the host's memory, where the float64 oracle computes; with --dtype bfloat16"
    ):
        _leader(away)
    wide, told = _leader(away.to(torch.bfloat16))
    assert told == "references in float32 on meta" and wide.dtype == torch.float32


# the command


def test_the_command_names_the_guilty(
    command: Deepport, install: Distribution, checkpoint: Path, tmp_path: Path
) -> None:
    install("acme", acme(FAULTY["stale"], HONEST["linear"]))
    folder = tmp_path / "found"
    ended = command("bisect", "--device", "acme", "--model", checkpoint, "--bundle", folder)
    assert ended.code == 1, ended.err
    lines = ended.out.splitlines()
    assert lines[0].endswith(
        "on acme:0 in float32, 24 tokens and 4 after them; the oracle is the references in float64"
    )
    (row,) = (line for line in lines if line.endswith("guilty"))
    assert row.split()[:2] == ["rms_norm", "acme/fast"]
    (charge,) = (line for line in lines if "is guilty" in line)
    assert charge.startswith("rms_norm by acme/fast is guilty: call ") and ", at layers." in charge
    assert lines[-1] == f"  deepport repro {folder / 'rms_norm.acme.fast'}"
    assert ended.err == ""


def test_the_command_acquits(command: Deepport, install: Distribution, checkpoint: Path) -> None:
    install("acme", acme(*HONEST.values()))
    ended = command("bisect", "--device", "acme", "--model", checkpoint, "--prompt-ids", "1,2,3", "--max-tokens", 2)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == "The logits of 3 kernels are as right as the references'."
    install("bare", acme().replace('"acme"', '"bare"', 1), module="deepport_bare")
    ended = command("bisect", "--device", "bare", "--model", checkpoint, "--dtype", "float32", "--prompt", "the words")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("No kernel served")


def test_the_command_in_json(command: Deepport, install: Distribution, checkpoint: Path, tmp_path: Path) -> None:
    install("acme", acme(FAULTY["window"], FAULTY["rounded"]))
    ended = command(
        "bisect",
        "--device",
        "acme",
        "--model",
        checkpoint,
        "--random-prompt",
        140,
        "--bundle",
        tmp_path / "b",
        "--json",
    )
    assert ended.code == 1
    found = json.loads(ended.out)
    assert (found["tokens"], found["new"], found["several"]) == (140, 4, True)
    assert {c["operator"] for c in found["culprits"]} == {"sparse_attention", "swiglu"}
    assert all(Path(c["folder"], "bundle.json").is_file() for c in found["culprits"])
    assert {s["operator"] for s in found["swaps"]} == {"sparse_attention", "swiglu"}
    assert {g["metric"] for g in found["kernels"]["gates"]} >= {"logits rms", "logits KL", "top-1", "greedy"}


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--prompt-ids", "1,999"), 2, "token id 999 is not in the model's vocabulary of 320"),
        (("--prompt", "a", "--prompt-ids", "1"), 2, "are both prompts; give one"),
        (("--prompt", ""), 2, "the prompt is empty"),
        (("--device", "cpu:7"), 3, "there is no device 7"),
        (("--model", "nowhere"), 2, "is neither a checkpoint's directory nor a preset"),
    ],
)  # fmt: skip
def test_the_command_refuses(
    options: tuple[str, ...], code: int, told: str, command: Deepport, checkpoint: Path
) -> None:
    ended = command("bisect", "--device", "cpu", "--model", checkpoint, *options)
    assert ended.code == code and told in ended.err and not ended.out
