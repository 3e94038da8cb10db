"""What kernels tell a plan that they keep is what they keep: the buffers are C++'s, and what is told of them is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cpu.kept import CALLS


@pytest.mark.parametrize("name", CALLS)
def test_what_is_told_is_what_is_kept(name: str) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kept.py"), name], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["grown"] <= found["told"] + (64 << 10), "more is kept than is told"
    assert found["told"] <= 1.3 * found["grown"], "more is told than is kept"
