"""`deepport bisect`: which kernel makes a model's logits wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from deepport.command import generation, options
from deepport.command.render import show
from deepport.command.request import Place, Prompt, find_device
from deepport.command.terminal import EXIT_CODES, failures, progress

if TYPE_CHECKING:
    from deepport.conformance.bisect import Bisection, Culprit, Deviation

EXAMPLES = f"""
Examples:

  deepport bisect --device cuda --model ./checkpoint --dtype bfloat16

  deepport bisect --device npu --model demo --prompt "def main(" --max-tokens 16 --bundle broken

Exit code 1: a kernel is guilty. {EXIT_CODES}
"""

_TOKENS = 24

Ids = Annotated[str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="Token ids to read.")]
Text = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="The text to read.")]
Random = Annotated[
    int | None,
    typer.Option(
        "--random-prompt", metavar="N", min=1, help=f"N random token ids to read. Default: {_TOKENS} of them."
    ),
]
More = Annotated[
    int, typer.Option("--max-tokens", metavar="N", min=1, help="Tokens that are computed singly after them.")
]
Folder = Annotated[
    Path,
    typer.Option("--bundle", metavar="DIRECTORY", help="Where bundles of wrong calls go, each in a folder of its own."),
]


def bisect(
    device: options.Device = "auto",
    model: options.Model = "demo",
    dtype: options.Dtype = None,
    prompt: Text = None,
    prompt_ids: Ids = None,
    random_prompt: Random = None,
    max_tokens: More = 4,
    seed: options.Seed = 0,
    bundle: Folder = Path("deepport-bundles"),
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> None:
    """Find the kernel that makes a model's logits wrong, by swapping one at a time for its reference.

    Logits of the device's kernels are compared with the references', both against a float64 run of the references. Where they are
    wrong, the guilty kernel's first wrong call is written as a bundle, which deepport repro runs again. A longer text finds more:
    layers that compress 128 tokens to one entry have none before.
    """
    with failures(traceback):
        place = find_device(device)
        given = prompt is not None or prompt_ids is not None or random_prompt is not None
        asked = Prompt.read(prompt, None, prompt_ids, random_prompt) if given else Prompt(random=_TOKENS)
        found = _bisect(model, dtype, place, asked, max_tokens, seed, bundle)
        if as_json:
            sys.stdout.write(json.dumps(found.as_json(), default=_plain) + "\n")
        else:
            found.show(sys.stdout)
        if found.made.culprits:
            raise typer.Exit(1)


@dataclass(frozen=True)
class _Done:
    model: str
    device: str
    dtype: str
    tokens: int
    new: int
    made: Bisection

    def as_json(self) -> dict[str, Any]:
        return {n: v for n, v in vars(self).items() if n != "made"} | asdict(self.made)

    def show(self, file: TextIO) -> None:
        read = f"{self.tokens} tokens and {self.new} after them"
        file.write(f"{self.model} on {self.device} in {self.dtype}, {read}; the oracle is the {self.made.oracle}\n\n")
        _show_logits(self.made, file)
        if self.made.swaps:
            _show_swaps(self.made, file)
        file.write("".join(f"{line}\n" for line in _verdict(self.made)))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def _bisect(name: str, dtype: str | None, place: Place, prompt: Prompt, new: int, seed: int, folder: Path) -> _Done:
    from deepport.conformance.bisect import bisect
    from deepport_model import load
    from deepport_model.generate import check

    with progress("loading", "bytes") as report:
        model = load(name, place.device, dtype, progress=report)
    ids = generation.prompt_ids(model, prompt, seed)
    check(model.transformer, [ids], new)
    with progress("comparing", "runs") as report:
        made = bisect(model, ids, new, folder, report)
    told = str(model.transformer.dtype).removeprefix("torch.")
    return _Done(name, place.device, told, len(ids), new, made)


def _show_logits(made: Bisection, file: TextIO) -> None:
    columns = ("logits", ">rms error", ">bound", ">KL", ">bound", "top-1")
    rows = [("references", *_cells(made.references)), ("kernels", *_cells(made.kernels))]
    show(columns, rows, file)
    file.write("\n")


def _cells(deviation: Deviation) -> tuple[str, ...]:
    rms, kl = deviation.gate("logits rms"), deviation.gate("logits KL")
    return *(f"{v:.2e}" for g in (rms, kl) for v in (g.value, g.bound)), deviation.gate("top-1").detail


def _show_swaps(made: Bisection, file: TextIO) -> None:
    guilty = {(c.operator, c.implementation) for c in made.culprits}
    rows = [
        (
            s.operator,
            s.implementation,
            str(s.calls),
            f"{s.without.gate('logits rms').value:.2e}",
            f"{s.without.share:.3g}",
            "guilty" if (s.operator, s.implementation) in guilty else "right without it" if s.without.right else "",
        )
        for s in made.swaps
    ]
    columns = ("operator", "served by", ">calls", ">rms error without it", ">share of a bound", "")
    show(columns, rows, file)
    file.write("\n")


def _verdict(made: Bisection) -> list[str]:
    if not made.served:
        return ["No kernel served: these are the references' own logits, and there is nothing to swap."]
    if made.kernels.right:
        return [f"The logits of {made.served} kernels are as right as the references'."]
    wrong = [f"Wrong: {', '.join(made.wrong)}."]
    several = ["No single swap brings the logits back: several kernels are guilty."] if made.several else []
    return wrong + several + [line for culprit in made.culprits for line in _charge(culprit)]


def _charge(culprit: Culprit) -> list[str]:
    who = f"{culprit.operator} by {culprit.implementation}"
    if culprit.gate is None:
        return [
            f"{who}: the logits are right without it, though each of its {culprit.calls} calls passes: together they err too far"
        ]
    gate = culprit.gate
    measured = (
        f"{gate.value:.3g} where {gate.bound:.3g} is allowed"
        if gate.value is not None and gate.bound is not None
        else gate.detail
    )
    return [
        f"{who} is guilty: call {culprit.call} of {culprit.calls}, at {culprit.site or 'the model'}: "
        f"{gate.gate} {gate.metric} is {measured}",
        f"  deepport repro {culprit.folder}",
    ]
