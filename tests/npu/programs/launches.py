"""Launches of Triton's on two simulated NPUs: on the device on which the tensors lie, with nothing that an NPU has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_npu  # noqa: F401  (registers the device)

from deepport_triton.launch import launch


class Started:
    """In a kernel's place: how and where it was launched."""

    __name__ = "_copy"

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            self.device, self.options = torch.npu.current_device(), options

        return run


def main() -> None:
    started, x = Started(), torch.zeros(2, device="npu:1")
    launch(started, (1,), x, warps=8, block=16)
    print(started.device, started.options, torch.npu.current_device())
    try:
        launch(started, (1,), torch.zeros(2), x)
    except ValueError as error:
        print(error)


if __name__ == "__main__":
    main()
