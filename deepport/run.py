"""`deepport run`, also as `python -m deepport.run`: continue a prompt, and say how fast, on what, and by whom."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext

import typer

from deepport.command import options
from deepport.command.again import once_more
from deepport.command.explain import measured
from deepport.command.generation import Sampling, generate
from deepport.command.request import Place, Policy, Prompt, find_device
from deepport.command.summary import Run
from deepport.command.terminal import EXIT_CODES, INTERRUPTED, failures, main, progress
from deepport.record import Record

EXAMPLES = f"""
Examples:

  deepport run --prompt "Return a list of"

  deepport run --file notes.txt --max-new-tokens 400 --temperature 0.8 --seed 7

  git log -1 --format=%B | deepport run --device cuda --model ./checkpoint --dtype bfloat16

  deepport run --model mini --random-prompt 512 --explain

  deepport run --device npu --fallback host:index_topk --fallback-budget 1000 --prompt "def "

{EXIT_CODES}
"""


def run(
    device: options.Device = "auto",
    model: options.Model = "demo",
    dtype: options.Dtype = None,
    engram: options.Engram = "device",
    prompt: options.Text = None,
    file: options.File = None,
    prompt_ids: options.PromptIds = None,
    random_prompt: options.RandomPrompt = None,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    chunk: options.Chunk = 512,
    fallback: options.Fallback = "device",
    fallback_budget: options.Budget = 0,
    explain: options.Explain = False,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> None:
    """Continue a text with a model, on a device.

    The prompt is --prompt, --file, or what is piped in. The new text goes to stdout as it comes, and nothing else does;
    speed, memory and who computed what go to stderr.
    """
    with failures(traceback):
        place = find_device(device)
        policy = Policy.parse(fallback, fallback_budget)
        asked = Prompt.read(prompt, file, prompt_ids, random_prompt)
        policy.check()
        if explain:
            _show_plan(model, dtype, place, policy, chunk)
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, chunk)
        with nullcontext() if traceback else once_more(place.backend, asked.text):
            done = _run(model, dtype, engram, place, policy, asked, sampling, streamed=not as_json)
        if explain:
            measured(done.record, sys.stderr)
        if as_json:
            sys.stdout.write(json.dumps(done.as_json(asked.text is not None)) + "\n")
        done.show(sys.stderr)
        if done.made.finish == "interrupted":
            raise typer.Exit(INTERRUPTED)


def _show_plan(model: str, dtype: str | None, place: Place, policy: Policy, chunk: int) -> None:
    from deepport.command.plan import make_plan

    make_plan(model, dtype, place.backend, policy, chunk).show(sites=False, file=sys.stderr)


def _run(
    name: str, dtype: str | None, engram: options.Engram, place: Place, policy: Policy, prompt: Prompt, sampling: Sampling,
    streamed: bool,
) -> Run:  # fmt: skip
    from deepport_model import load

    begin = time.perf_counter()
    with progress("loading", "bytes") as report:
        model = load(name, place.device, dtype, engram=engram, progress=report)
    seconds = time.perf_counter() - begin
    record = Record()
    with model.session(record=record, **policy.session()) as session:
        made = generate(model, prompt, sampling, sys.stdout if streamed else None)
    sys.stdout.flush()
    return Run(name, model, place, made, record, session.host_calls, seconds)


def command() -> typer.Typer:
    """`run` alone, as a command line."""
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLES)(run)
    return app


if __name__ == "__main__":
    main(command())
