"""The host as a runtime."""

import resource
import subprocess
import sys

PEAK = "from deepport.runtime import HostRuntime; print(HostRuntime().memory().peak)"


def test_a_peak_is_the_process_s_own() -> None:
    """Linux counts in ru_maxrss what the process held that forked this one."""
    held = bytearray(b"x") * (1 << 30)
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, preexec_fn=lambda: None
    )
    assert 20e6 < int(done.stdout) < len(held) <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


RESET = """
from deepport.runtime import HostRuntime
host, before = HostRuntime(), HostRuntime().memory().allocated
held = [bytes([1]) * 60_000 for _ in range(2000)]  # too small for maps of their own: the allocator keeps them
del held
high = host.memory().peak
host.reset_peak()
print(high - before, host.memory().peak - before)
"""


def test_a_peak_is_reset_and_what_is_free_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", RESET], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 100e6 > 10e6 > after
