"""A decode step asks nothing of the device's data, so that it can be captured: traced on tensors that have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepport import backend
from deepport_triton.ahead.trace import MODELS, Noting, shaped, steps
from deepport_triton.kernels import KERNELS

LAYERS = len(MODELS["v4-flash"].compress_ratios)


class Discipline(TorchDispatchMode):
    """Refuses what has a host wait for a device, or a device for a host: numbers read, sizes by data, copies between them."""

    _WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "item", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        found = func(*args, **(kwargs or {}))
        places = {t.device.type for t in tree_leaves((args, kwargs, found)) if isinstance(t, Tensor)}
        if name.startswith(self._WAITS):
            raise AssertionError(f"{name} waits for the device")
        if "meta" in places and len(places) > 1:
            raise AssertionError(f"{name} is given tensors of {', '.join(sorted(places))}")
        return found


SYNCHRONISES: dict[str, Callable[[Tensor], object]] = {
    "a number is read": lambda x: x.sum().item(),
    "a size by data": lambda x: x.nonzero(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: torch.ones(3).to(x.device),
    "a condition": lambda x: bool(x.any()),
    "a comparison": lambda x: torch.equal(x, x + 1),
}


@pytest.mark.parametrize("what", SYNCHRONISES)
def test_what_synchronises_is_seen(what: str) -> None:
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Discipline():
        SYNCHRONISES[what](torch.zeros(3, device="meta"))


def decoded(model: str, format: str) -> Noting:
    """The decode step of a model, traced under discipline."""
    kernels = {"sm_90": backend.accepted("triton", KERNELS)}
    watched = steps(shaped(MODELS[model], torch.bfloat16, format), kernels, Discipline)
    return next(session for of, session in watched if of == "decode")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("format", ["plain", "mxfp4+fp8"])
def test_a_decode_step_never_synchronises(model: str, format: str) -> None:
    session = decoded(model, format)
    asked = {made.operator for made in session.made}
    assert {"sparse_attention", "index_topk", "compress_kv_", "moe_experts", "mhc_pre"} <= asked
    assert ("engram_gather" in asked) == (model == "engram")
    assert not session.references, "computed by plain torch"


def test_launches_of_a_layer_do_not_grow() -> None:
    """A layer of V4-Flash, as the mean of a window's, a CSA's and an HCA's; whoever fuses some lowers the bound.

    These three share the step's own: the angles of its tokens, and the head.
    """
    made = decoded("v4-flash", "mxfp4+fp8").made
    per_layer = Counter(m.operator for m in made)
    assert len(made) / LAYERS <= 41, per_layer
    assert per_layer["sparse_attention"] == 2 * LAYERS, "in parts, and joined"
