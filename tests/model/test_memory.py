"""Memory of a long prefill: it grows with the caches, never with tokens x entries."""

import resource
import subprocess
import sys

import pytest

PROMPT = 32_768
ALLOWED = 1.5e9
"""Bytes beyond the weights: libraries, caches and scratch."""

GENERATE = f"""
import torch, deepport
from deepport.runtime import HostRuntime
model = deepport.load("mini", device="cpu", dtype="bfloat16")
list(model.generate([1, 2, 3], max_new_tokens=2))
before = HostRuntime().memory().allocated
ids = torch.randint(0, model.config.vocab_size, ({PROMPT},), generator=torch.Generator().manual_seed(0)).tolist()
made = list(model.generate(ids, max_new_tokens=4))
assert len(made) == 4
print(before, HostRuntime().memory().peak)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_prompt_needs_little_beyond_the_weights() -> None:
    done = subprocess.run([sys.executable, "-c", GENERATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, peak = map(int, done.stdout.split())
    weights = 884e6 * 2
    assert before > weights
    print(
        f"{PROMPT} tokens: {(peak - before) / 1e9:.2f} GB above the loaded model, {(peak - weights) / 1e9:.2f} above its weights"
    )
    assert peak - weights < ALLOWED


def test_resource_usage_is_in_kilobytes() -> None:
    """What HostRuntime rests on where /proc tells no peak: Linux counts ru_maxrss in KiB."""
    assert sys.platform == "linux"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > 50e6
