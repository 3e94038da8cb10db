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
