"""`deepport bench`: how fast it is here, beside what the device can do and what others do on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from deepport.command import options
from deepport.command.request import find_device
from deepport.command.terminal import EXIT_CODES, failures
from deepport.errors import BadInput

EXAMPLES = f"""
Examples:

  deepport bench

  deepport bench --operator moe_experts --operator linear --against reference

  deepport bench --model mini --format mxfp4+int8 --depth 512,2048,8192 --against llama.cpp --seconds 600 --html bench.html

  deepport bench --model ./checkpoint --prefill 512,8192 --json bench.json

A figure's share is what the device's own limit allows, by a probe taken in the same round, over the time that was needed.

Exit code 1: a figure is beyond the limits that were probed, so something is not measured as it should be. {EXIT_CODES}
"""

_WHAT, _HOW = "What is measured", "How"

_PEERS = ("reference", "transformers", "llama.cpp")

Operators = Annotated[
    list[str] | None,
    typer.Option(
        "--operator",
        metavar="NAME",
        rich_help_panel=_WHAT,
        help="All shapes of this operator; may be given several times. Default: the shapes that represent each operator.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIRECTORY",
        rich_help_panel=_WHAT,
        help="A whole model: mini, mini-engram, tiny, demo, or a checkpoint. Default: mini, where no operator is named.",
    ),
]
Depth = Annotated[
    str, typer.Option(metavar="N,N", rich_help_panel=_WHAT, help="Tokens before those that are decoded and timed.")
]
Prefill = Annotated[
    str, typer.Option(metavar="N,N", rich_help_panel=_WHAT, help="Lengths of the prompts that are read.")
]
Tokens = Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_WHAT, help="Tokens decoded at each depth.")]
Dtype = Annotated[
    Literal["float32", "bfloat16"] | None,
    typer.Option(
        rich_help_panel=_WHAT, help="Of activations and plain weights. Default: a checkpoint's own, else bfloat16."
    ),
]
Format = Annotated[
    str,
    typer.Option(
        metavar="EXPERTS+DENSE",
        rich_help_panel=_WHAT,
        help="Number formats of a model's weights, such as mxfp4+int8 or mxfp4+fp8, made from its own by quantisation.",
    ),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--against",
        metavar="NAME",
        rich_help_panel=_HOW,
        help="Take turns with transformers or llama.cpp on the same weights (a model), or with plain torch (an operator's "
        "reference). May be given several times.",
    ),
]
Rounds = Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_HOW, help="Rounds of each figure, at most.")]
Seconds = Annotated[
    float,
    typer.Option(metavar="N", min=1, rich_help_panel=_HOW, help="For all measurements; loading a model comes on top."),
]
Warm = Annotated[
    bool,
    typer.Option(
        "--warm",
        rich_help_panel=_WHAT,
        help="Also with weights that a cache may hold; without it they come from memory.",
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The whole record, as versioned JSON.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="One page with plots, without network.")]


def bench(
    device: options.Device = "auto",
    operator: Operators = None,
    model: Model = None,
    prefill: Prefill = "512",
    depth: Depth = "512",
    tokens: Tokens = 16,
    dtype: Dtype = None,
    format: Format = "plain",
    against: Peers = None,
    warm: Warm = False,
    rounds: Rounds = 7,
    seconds: Seconds = 60.0,
    json: JsonFile = None,
    html: HtmlFile = None,
    traceback: options.Traceback = False,
) -> None:
    """Time operators and whole models, beside the device's limits as they are probed in the same run.

    Each figure is the median of rounds, with its dispersion, and says who computed it. Ctrl-C keeps what was measured.
    """
    with failures(traceback):
        place = find_device(device)
        lengths = _numbers("--prefill", prefill), _numbers("--depth", depth)
        names, peers = tuple(operator or ()), tuple(dict.fromkeys(against or ()))
        if unknown := [p for p in peers if p not in _PEERS]:
            raise BadInput(f"--against {unknown[0]}: is none of: {', '.join(_PEERS)}")
        others = tuple(p for p in peers if p != "reference")
        if names and model is None and others:
            raise BadInput(
                f"--against {others[0]} is for whole models: add --model; an operator has --against reference"
            )
        from deepport.command import benching

        asked = benching.Asked(
            place, names if names or model is None else None, "mini" if not names and model is None else model, dtype,
            format, *lengths, tokens, others, "reference" in peers, rounds, seconds, warm,
        )  # fmt: skip
        raise typer.Exit(benching.bench(asked, json, html))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise BadInput(f"{option} {text}: must be positive numbers with commas between them, as in 512,2048")
    return found
