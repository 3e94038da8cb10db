"""The options of our commands: their names, types and help. `deepport.command.request` says what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_PROMPT, _SAMPLING, _PLACE, _SERVING, _OUTPUT = "Prompt", "Sampling", "Model and device", "Who computes", "Output"
"""Panels of `--help`."""

Device = Annotated[
    str,
    typer.Option(
        metavar="NAME[:INDEX]",
        rich_help_panel=_PLACE,
        help="auto, cpu, cuda, rocm, npu or another installed backend (deepport backends lists them). auto is the first "
        "accelerator that is there, else the CPU; a device that is named and absent ends with exit code 3.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|DIRECTORY",
        rich_help_panel=_PLACE,
        help="A checkpoint directory, or demo; or with random weights one of mini, mini-engram, tiny, v4-flash, "
        "v4-flash-engram, v4-pro.",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(
        rich_help_panel=_PLACE,
        help="Of activations and plain weights; quantised ones stay so. Default: the checkpoint's; float32 for random weights.",
    ),
]
Chunk = Annotated[
    int,
    typer.Option(
        metavar="N", min=1, rich_help_panel=_PLACE, help="Prompt tokens read in one step; fewer need less memory."
    ),
]
Soc = Annotated[
    str | None,
    typer.Option(
        metavar="CHIP",
        rich_help_panel=_PLACE,
        help="Plan for this chip of the device's kind, which need not be there: of npu 910B, 910C or 950, of cuda sm_90, of rocm "
        "gfx942.",
    ),
]
Engram = Annotated[
    Literal["device", "host"],
    typer.Option(
        rich_help_panel=_PLACE, help="Where Engram's memory tables lie: in the device's memory or the host's."
    ),
]
Text = Annotated[
    str | None, typer.Option(metavar="TEXT", rich_help_panel=_PROMPT, help="The text to continue, as it is.")
]
File = Annotated[Path | None, typer.Option(metavar="PATH", rich_help_panel=_PROMPT, help="A UTF-8 file to continue.")]
PromptIds = Annotated[
    str | None, typer.Option(metavar="1,2,3", rich_help_panel=_PROMPT, help="Token ids; what comes out is ids, too.")
]
RandomPrompt = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, rich_help_panel=_PROMPT, help="N random token ids, drawn by --seed; for benchmarks."
    ),
]
MaxNewTokens = Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_SAMPLING, help="Stop after N tokens.")]
Temperature = Annotated[
    float,
    typer.Option(
        min=0, rich_help_panel=_SAMPLING, help="0 takes the most probable token, 1 samples the model as it is."
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        rich_help_panel=_SAMPLING,
        help="Sample from the fewest tokens that together reach this probability.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", min=0, max=2**63 - 1, rich_help_panel=_SAMPLING, help="Of sampling, and of --random-prompt."
    ),
]
Fallback = Annotated[
    str,
    typer.Option(
        metavar="POLICY",
        rich_help_panel=_SERVING,
        help="Where the device has no kernel for an operator: device (its reference computes it, on the device), error (refuse, "
        "exit code 4), or host:op1,op2 (the reference on the CPU, for these operators).",
    ),
]
Budget = Annotated[
    int,
    typer.Option(min=0, rich_help_panel=_SERVING, help="Calls that host:... may make; one more ends with exit code 5."),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        rich_help_panel=_OUTPUT,
        help="Show who serves what, and why nothing faster does (of run: on stderr).",
    ),
]
Json = Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="One JSON object on stdout, and no text.")]
Traceback = Annotated[
    bool, typer.Option("--traceback", rich_help_panel=_OUTPUT, help="Show Python's traceback of a failure.")
]
