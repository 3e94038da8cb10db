"""What Python is warned of by an operator that torch_npu comments on, before and after the backend has started: two processes."""

from __future__ import annotations

import json
import sys
import warnings

import torch
import torch_npu  # noqa: F401  (registers the device)

from deepport import backend


def main(started: str) -> None:
    if started == "started":
        backend.start("npu")
    with warnings.catch_warnings(record=True) as found:
        _ = torch.arange(5, device="npu") % 2
        warnings.warn("Cannot create something else", UserWarning, stacklevel=1)
    print(json.dumps([str(w.message) for w in found]))


if __name__ == "__main__":
    main(sys.argv[1])
