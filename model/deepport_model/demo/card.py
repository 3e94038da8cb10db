"""The demo model's card: `python -m deepport_model.demo.card CHECKPOINT ABLATION` writes CHECKPOINT/README.md.

Both directories are what `train` wrote, with and without Engram. The baselines are computed here, over the same tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from deepport_model.demo import baseline, corpus, vocabulary
from deepport_model.demo.train import CONFIG, CONTEXT, SEQUENCES

_TEMPLATE = Path(__file__).with_name("card.md")


def _results(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "results.json").read_text())
    return found


def main(
    checkpoint: Annotated[Path, typer.Argument(help="What `train` wrote.")],
    ablation: Annotated[Path, typer.Argument(help="What `train --without-engram` wrote.")],
) -> None:
    """Write the model card from the two runs' results."""
    split = corpus.documents()
    tokenizer = vocabulary.train_tokenizer(split.train)
    train, held_out = (vocabulary.encode(tokenizer, texts) for texts in split)
    run, without = _results(checkpoint), _results(ablation)
    size = vocabulary.utf8_bytes(split.held_out)
    if size != run["held_out_bytes"] or run["steps"] != without["steps"]:
        raise typer.BadParameter("the runs were of other texts or of different lengths")
    batch = SEQUENCES * CONTEXT
    figures = run | {
        "parameters": run["parameters"] / 1e6,
        "ablation": without["bits_per_byte"],
        "ablation_parameters": without["parameters"] / 1e6,
        "kneser_ney": baseline.bits_per_byte(train, held_out, size, CONFIG.vocab_size),
        "xz": baseline.xz_bits_per_byte(split.train, split.held_out),
        "seen": corpus.overlap(split.held_out, corpus.shingles(split.train)),
        "context": CONTEXT,
        "vocabulary": CONFIG.vocab_size,
        "batch": f"{batch:,}",
        "passes": run["steps"] * batch / run["train_tokens"],
        "minutes": run["seconds"] / 60,
    }
    (checkpoint / "README.md").write_text(_TEMPLATE.read_text().format(**figures))


if __name__ == "__main__":
    typer.run(main)
