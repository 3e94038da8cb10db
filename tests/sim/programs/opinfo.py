"""PyTorch's own samples (OpInfo) for the operators that the model uses: each on the device and on the CPU, forward and backward.

Which operators those are is found by running the model. Prints how many samples were compared, by OpInfo, the operators that no
OpInfo is for, and what failed.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_leaves, tree_map

from deepport import backend
from deepport_sim import device
from model import inference, placed, training

DTYPES = (torch.float32, torch.bfloat16, torch.int64)
SAMPLES = 6
RENAMED = {
    "_index_put_impl": "index_put",
    "_local_scalar_dense": "item",
    "_log_softmax": "log_softmax",
    "_log_softmax_backward_data": "log_softmax",
    "_softmax": "softmax",
    "_softmax_backward_data": "softmax",
    "embedding_dense_backward": "embedding",
    "index": "__getitem__",
    "nll_loss_backward": "nll_loss",
    "nll_loss_forward": "nll_loss",
    "sigmoid_backward": "sigmoid",
    "silu_backward": "silu",
    "softplus_backward": "softplus",
}
"""Operators under the names of functions that call them."""

NATIVE = (
    "as_strided", "clone", "contiguous", "conv1d", "expand", "item", "narrow", "permute",
    "repeat", "reshape", "resize_", "select", "slice", "to", "transpose", "unflatten", "unfold", "view",
)  # fmt: skip
"""Functions whose operators the device has kernels of its own for, which do not count calls."""

RANDOM = ("normal", "uniform", "bernoulli", "multinomial", "rand", "randn", "randint")
REACHES_OUT = "as_strided_partial_views"
"""Its samples look at memory around the tensor, of which a copy on the CPU has none."""


def used() -> set[str]:
    """The operators that the model asks the device for, without the namespace and the in-place form's underscore."""
    backend.start("sim")
    before = device.operators()
    with torch.inference_mode():
        list(inference(placed("float32", "device").to("sim"), strict=False))
    list(training(placed("float32", "device").to("sim")))
    return {
        name.removeprefix("aten::").rstrip("_") for name, n in device.operators().items() if n > before.get(name, 0)
    }


def infos(names: set[str]) -> tuple[list[OpInfo], list[str]]:
    """The OpInfos for these, and the names that none is for."""
    wanted = {RENAMED.get(name, name): name for name in names}
    found = [
        op
        for op in op_db
        if {op.name.rpartition(".")[2], op.aten_name} & wanted.keys() and not op.name.startswith("sparse")
    ]
    covered = {n for op in found for n in (op.name.rpartition(".")[2], op.aten_name)}
    return found, sorted(wanted[n] for n in wanted if n not in covered)


def names_of(op: OpInfo) -> set[str]:
    return {op.name.rpartition(".")[2], op.aten_name}


def samples(op: OpInfo, dtype: torch.dtype, grad: bool) -> Iterator[SampleInput]:
    yield from itertools.islice(op.sample_inputs("sim", dtype, requires_grad=grad), SAMPLES)


def on_cpu(sample: SampleInput) -> SampleInput:
    """The sample with its tensors and devices on the CPU; leaves stay leaves."""

    def moved(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.detach().cpu().requires_grad_(x.requires_grad)
        return torch.device("cpu") if str(x).startswith("sim") and isinstance(x, (str, torch.device)) else x

    moves = tree_map(moved, (sample.input, sample.args, sample.kwargs))
    return SampleInput(moves[0], args=moves[1], kwargs=moves[2])


def tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def called(op: OpInfo, sample: SampleInput) -> list[Tensor]:
    torch.manual_seed(0)
    return tensors(op(sample.input, *sample.args, **sample.kwargs))


def compare(op: OpInfo, dtype: torch.dtype, grad: bool) -> int:
    """Every sample, or the gradients of the first; AssertionError where device and CPU differ."""
    count = 0
    for sample in samples(op, dtype, grad):
        there, here = called(op, sample), called(op, host := on_cpu(sample))
        assert all(t.device.type == "sim" for t in there), "a result is not on the device"
        torch.testing.assert_close([t.detach().cpu() for t in there], [t.detach() for t in here], equal_nan=True)
        if grad:
            return compare_gradients(sample, there, host, here)
        count += 1
    return count


def compare_gradients(sample: SampleInput, there: list[Tensor], host: SampleInput, here: list[Tensor]) -> int:
    found = []
    for inputs, outputs in (
        ((sample.input, sample.args, sample.kwargs), there),
        ((host.input, host.args, host.kwargs), here),
    ):
        leaves = [t for t in tensors(inputs) if t.requires_grad]
        total = sum(o.sum() for o in outputs if o.requires_grad)
        if not leaves or not isinstance(total, Tensor):
            return 0
        found.append([g.cpu() for g in torch.autograd.grad(total, leaves, allow_unused=True) if g is not None])
    torch.testing.assert_close(*found, equal_nan=True)
    return 1


def main() -> None:
    warnings.simplefilter("ignore")
    chosen, without = infos(used() | set(NATIVE))
    for rule in ("implicit-sync", "mixed-devices"):
        device.set_policy(
            rule, "allow"
        )  # samples do what the model may not: masks, and indices on the host, as CUDA takes them
    compared: dict[str, int] = {}
    failed: dict[str, str] = {}
    for op in (op for op in chosen if op.name not in RANDOM and op.formatted_name != REACHES_OUT):
        ways = [(d, False) for d in DTYPES if d in op.dtypes] + [(torch.float32, True)] * op.supports_autograd
        for dtype, grad in ways:
            try:
                compared[op.formatted_name] = compared.get(op.formatted_name, 0) + compare(op, dtype, grad)
            except Exception as error:  # whatever an operator raises is what this is for
                what = f"{op.formatted_name} {str(dtype).removeprefix('torch.')}{' backward' if grad else ''}"
                failed[what] = f"{type(error).__name__}: {str(error)[:300]}"
    print(json.dumps({"compared": compared, "without": without, "failed": failed}))


if __name__ == "__main__":
    main()
