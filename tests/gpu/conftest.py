"""Triton decides when it is imported whether it interprets."""

import os

os.environ["TRITON_INTERPRET"] = "1"
