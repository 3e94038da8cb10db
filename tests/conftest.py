"""One thread per test process: with pytest-xdist the processes share the cores, and spinning threads would only wait."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")
