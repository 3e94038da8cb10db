"""Generation: the same text whatever the chunks and the company, sampling, stops, and what cannot be generated from."""

import pytest
import torch
from oracles.deepseek_v4 import SHAPES, VOCABULARY, config

from deepport.errors import BadInput
from deepport_model.generate import generate
from deepport_model.sampling import Sampler
from deepport_model.transformer import Transformer, initialize

NEAR_TIE = 1e-4
"""Of the logits' range: a smaller margin between the best two tokens is decided by rounding (design: conformance, gate G6)."""


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Weights large enough that greedy texts wander."""
    transformer = initialize(Transformer(config(SHAPES["all-layer-types"])), seed=3).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.dim() > 1:
                parameter *= 15
    return transformer


def prompts(*lengths: int) -> list[list[int]]:
    g = torch.Generator().manual_seed(5)
    return [torch.randint(0, VOCABULARY, (n,), generator=g).tolist() for n in lengths]


def greedy(model: Transformer, prompts: list[list[int]], new: int, chunk: int = 512) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in prompts]
    for token in generate(model, prompts, new, Sampler(), chunk=chunk):
        texts[token.sequence].append(token.id)
    return texts


def assert_same_but_for_near_ties(model: Transformer, prompt: list[int], text: list[int], other: list[int]) -> None:
    if text == other:
        return
    step = next(i for i, (a, b) in enumerate(zip(text, other, strict=True)) if a != b)
    logits = model(torch.tensor([prompt + text[:step]]), "last")[0, 0]
    best = logits.topk(2).values
    margin = float((best[0] - best[1]) / (logits.max() - logits.min()))
    assert margin < NEAR_TIE, f"texts part at step {step}, where the best token leads by {margin:.2e} of the range"


def test_greedy_text_does_not_depend_on_chunks_or_company(model: Transformer) -> None:
    several = prompts(133, 1, 40, 7)
    alone = [greedy(model, [p], 24)[0] for p in several]
    assert len({tuple(t) for t in alone}) == len(several)
    for chunk in (4, 37, 512):
        for prompt, text, other in zip(several, alone, greedy(model, several, 24, chunk), strict=True):
            assert_same_but_for_near_ties(model, prompt, text, other)


def test_greedy_text_is_the_argmax_of_a_fresh_pass(model: Transformer) -> None:
    (prompt,) = prompts(21)
    (text,) = greedy(model, [prompt], 12)
    with torch.inference_mode():
        for step, token in enumerate(text):
            logits = model(torch.tensor([prompt + text[:step]]), "last")[0, 0]
            assert logits[token] >= logits.max() - 1e-4 * (logits.max() - logits.min())


def test_a_stop_token_ends_its_sequence_only(model: Transformer) -> None:
    several = prompts(9, 12)
    free = greedy(model, several, 10)
    stop = free[0][3]
    found: list[list[int]] = [[], []]
    for token in generate(model, several, 10, Sampler(), stop=frozenset([stop])):
        found[token.sequence].append(token.id)
    assert found[0] == free[0][: free[0].index(stop) + 1]
    assert found[1] == (free[1][: free[1].index(stop) + 1] if stop in free[1] else free[1])


def test_progress_counts_every_prompt_token(model: Transformer) -> None:
    seen: list[tuple[int, int]] = []
    list(
        generate(
            model, prompts(100, 30), 1, Sampler(), chunk=32, progress=lambda read, total: seen.append((read, total))
        )
    )
    assert seen[0][0] == 32
    assert seen[-1] == (130, 130)
    assert [r for r, _ in seen] == sorted(r for r, _ in seen)


def test_a_seed_gives_the_same_text_and_another_seed_another(model: Transformer) -> None:
    (prompt,) = prompts(8)

    def text(seed: int) -> list[int]:
        return [t.id for t in generate(model, [prompt], 20, Sampler(temperature=1.0, top_p=0.95, seed=seed))]

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_the_nucleus_is_the_fewest_most_probable_tokens_that_reach_top_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    drawn = {Sampler(1.0, 0.6, seed)(logits) for seed in range(200)}
    assert drawn == {0, 1}
    assert {Sampler(1.0, 0.5, seed)(logits) for seed in range(50)} == {0}


def test_sampling_follows_the_distribution() -> None:
    sampler, logits = Sampler(temperature=2.0, seed=0), torch.tensor([0.0, 2.0, 4.0])
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(4000)]), minlength=3) / 4000
    # The standard deviation of a share of 4,000 draws is at most 0.008.
    assert torch.allclose(counts, (logits / 2).softmax(-1), atol=0.04)


@pytest.mark.parametrize(
    ("prompt", "new", "text"),
    [
        ([[]], 5, "a prompt is empty"),
        ([], 5, "a prompt is empty"),
        ([[1, VOCABULARY]], 5, f"token id {VOCABULARY} is not in the model's vocabulary of {VOCABULARY}"),
        ([[1, -1]], 5, "token id -1 is not in"),
        ([[1]], 0, "max_new_tokens is 0"),
        ([[1]], 2**20, "do not fit the model's context of 1048576"),
    ],
)
def test_what_cannot_be_generated(model: Transformer, prompt: list[list[int]], new: int, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        next(generate(model, prompt, new, Sampler()))


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_sampling_that_makes_no_sense(options: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(options))} is"):
        Sampler(**options)  # type: ignore[arg-type]


def test_logits_that_are_not_finite() -> None:
    with pytest.raises(BadInput, match="not finite"):
        Sampler()(torch.full((4,), torch.nan))
