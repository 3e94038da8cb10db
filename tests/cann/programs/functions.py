"""Every function below on the device and on the CPU: which differ, and which simulated operators that called."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: F401  (the expressions use it)
import torch_npu  # noqa: F401  (registers the device)
from torch import Tensor

warnings.simplefilter("ignore")

ELEMENTWISE = (
    "abs ceil cos erf exp exp2 expm1 floor frac isfinite isneginf isposinf log log10 log1p log2 logical_not neg reciprocal relu "
    "round rsqrt sigmoid sign signbit sin sqrt tan tanh trunc"
)
IN_PLACE = (
    "ceil_ cos_ erf_ exp_ exp2_ expm1_ floor_ frac_ log_ log10_ log1p_ log2_ reciprocal_ relu_ rsqrt_ sigmoid_ sin_ sqrt_ tan_ "
    "tanh_"
)
BINARY = (
    "add sub mul div atan2 eq ne gt ge lt le floor_divide fmod remainder pow maximum minimum logaddexp logical_and logical_or "
    "logical_xor clamp_min clamp_max"
)
WITH_NUMBER = "add sub mul div eq ne gt ge lt le floor_divide fmod remainder pow clamp_min clamp_max"
BINARY_IN_PLACE = (
    "add_ sub_ mul_ div_ atan2_ eq_ ne_ gt_ ge_ lt_ le_ floor_divide_ fmod_ remainder_ pow_ logical_and_ logical_or_ clamp_min_ "
    "clamp_max_"
)
WITH_NUMBER_IN_PLACE = "add_ sub_ mul_ div_ eq_ ne_ gt_ ge_ lt_ le_ floor_divide_ fmod_ remainder_ pow_ clamp_max_"

CALLS = """
~i ; mask.clone().logical_not_() ; i * 1_000_003 % 97 ; i // j ; i % j
torch.add(x, y, alpha=2) ; torch.sub(x, y, alpha=2) ; torch.rsub(x, y, alpha=2) ; 1 - x ; torch.pow(2.0, x)
torch.remainder(7.0, p) ; torch.addcmul(x, y, p, value=2) ; torch.addcdiv(x, y, p, value=2) ; torch.lerp(x, y, 0.3)
x.clone().addcmul_(y, p, value=2) ; x.clone().addcdiv_(y, p, value=2) ; x.clone().lerp_(y, 0.3) ; torch.lerp(x, y, p)
x.clone().lerp_(y, p) ; x.clone().clamp_(-1, 1) ; torch.clamp(x, -p, p) ; torch.clamp(x, -1, 1) ; torch.clamp(x, max=1)
torch.where(mask, x, y) ; F.softplus(x) ; F.threshold(x, 0.5, 2.0) ; F.gelu(x) ; F.silu(x) ; torch.nan_to_num(x / 0)
torch.isclose(x, y) ; torch.equal(x, x) ; torch.equal(x, y)
# copies
x.clone().copy_(y) ; x.half().float() ; h.float() ; x.clone().fill_(2) ; x.clone().zero_() ; torch.ones_like(x)
x.t().contiguous() ; x.to(torch.int32) ; x.bfloat16() + h
# reductions
x.sum() ; x.sum(0) ; x.sum((0, 1), keepdim=True) ; h.sum(1, dtype=torch.float32) ; i.sum() ; x.mean() ; x.mean(1) ; x.prod()
x.prod(1) ; torch.logsumexp(x, 1) ; torch.linalg.vector_norm(x) ; x.norm() ; x.norm(dim=1) ; x.var(1) ; mask.any() ; mask.any(1)
mask.all() ; mask.all(0) ; x.max() ; x.min() ; x.max(1) ; x.min(1) ; x.amax(1) ; x.amin(1) ; torch.aminmax(x, dim=1)
x.argmax(1) ; x.argmin(1) ; x.cumsum(1) ; x.cumprod(1) ; torch.bincount(ids) ; torch.bincount(ids, minlength=9)
torch.histc(x, 5, -2, 2) ; torch.trace(square)
# order
x.sort(1) ; ids.sort(stable=True) ; x.sort(1, descending=True) ; x.topk(3, 1) ; torch.searchsorted(edges, x)
torch.searchsorted(edges, 0.4) ; torch.bucketize(x, edges, right=True) ; torch.nonzero(mask) ; x[mask]
torch.masked_select(x, mask) ; torch.unique(ids, return_inverse=True, return_counts=True)
# indexing
torch.gather(x, 1, places) ; x.index_select(0, rows) ; x[rows] ; x[:, rows] ; x[rows, rows] ; x[None, rows] ; x[rows[:0]]
F.embedding(ids % 4, x) ; x.clone().index_put_((rows,), y[:3]) ; x.clone().index_put_((rows, rows), y[0, :3], accumulate=True)
x.clone().index_put_((rows[:0], rows[:0]), y[0, :0]) ; torch.ops.aten.index_put_(x.clone(), [None, rows], y[:, :3])
x.index_add(0, rows, y[:3], alpha=2) ; x.index_copy(0, rows, y[:3])
x.clone().index_copy_(0, rows, y[:3]) ; x.index_fill(0, rows, 2) ; x.clone().index_fill_(0, rows, 2)
x.scatter(1, places, y) ; x.clone().scatter_(1, places, y) ; x.scatter(1, places, 2.0) ; x.clone().scatter_(1, places, 2.0)
x.scatter_add(1, places, y) ; x.masked_fill(mask, 2) ; x.masked_fill(mask, y.sum()) ; x.clone().masked_scatter_(mask, y)
torch.cat((x, y)) ; torch.stack((x, y)) ; x.split((2, 4), 1) ; F.pad(x, (1, 2), value=3) ; x.repeat(2, 3)
x.repeat_interleave(2, 1) ; x.repeat_interleave(2) ; x.repeat_interleave(ids, 0) ; rows.repeat_interleave(rows)
x.flip(1) ; x.roll(2, 1) ; x.tril() ; x.triu(1) ; x.clone().tril_() ; x.clone().triu_() ; F.one_hot(ids, 9)
# new tensors
torch.arange(2, 11, 3, device=x.device) ; torch.linspace(0, 1, 5, device=x.device) ; torch.eye(3, 4, device=x.device)
torch.range(1, 4, device=x.device) ; torch.full((2,), 3.0, device=x.device)
# products
x @ y.t() ; torch.mm(x, y.t()) ; torch.mv(x, y[0]) ; torch.dot(x[0], y[0]) ; h @ h.t() ; x[0] @ y[0] ; x @ y[0] ; cube @ cube
torch.bmm(cube, cube) ; torch.addmm(square, x, y.t(), beta=2) ; square.clone().addmm_(x, y.t()) ; F.linear(x, y)
torch.baddbmm(cube, cube, cube, alpha=0.5) ; torch.einsum('bij,bjk->bik', cube, cube) ; F.conv2d(image, filters)
F.conv1d(signal, kernel, dilation=2, groups=3) ; F.conv2d(image, filters[:1].transpose(0, 1).contiguous(), groups=3)
# networks
torch.softmax(x, 1) ; torch.log_softmax(x, 1) ; F.layer_norm(x, (6,), y[0], y[1]) ; F.mse_loss(x, y)
gradient(lambda v: F.conv1d(v, kernel, groups=3), signal) ; gradient(lambda v: F.conv1d(signal, v, groups=3), kernel)
"""
DIFFERENTIABLE = """
torch.softmax(v, 1) ; torch.log_softmax(v, 1) ; F.silu(v) ; torch.sigmoid(v) ; torch.tanh(v) ; F.softplus(v) ; torch.relu(v)
F.embedding(ids % 4, v) ; F.cross_entropy(v, ids % 6) ; F.nll_loss(v, ids % 6) ; v[rows] ; v.sum(1) ; v @ v.t()
torch.gather(v, 1, places) ; v.topk(2, 1).values ; v.amax(1) ; v.clamp(-1, 1) ; v.cumsum(1) ; torch.where(mask, v, 0)
"""


def calls(text: str) -> list[str]:
    lines = (line for line in text.strip().splitlines() if not line.startswith("#"))
    return [call for line in lines for call in line.split(" ; ")]


EXPRESSIONS = [
    *(f"torch.{name}(p)" for name in ELEMENTWISE.split()),
    *(f"p.clone().{name}()" for name in IN_PLACE.split()),
    *(f"torch.{name}(p, q)" for name in BINARY.split()),
    *(f"torch.{name}(p, 2.5)" for name in WITH_NUMBER.split()),
    *(f"p.clone().{name}(q)" for name in BINARY_IN_PLACE.split()),
    *(f"p.clone().{name}(2.5)" for name in WITH_NUMBER_IN_PLACE.split()),
    *(f"i {sign} {other}" for sign in ("&", "|", "^", "<<", ">>") for other in ("j", "3")),
    *(f"i.clone().__i{name}__({other})" for name in ("and", "or", "xor") for other in ("j", "3")),
    *(f"torch.div(p, {other}, rounding_mode={m!r})" for other in ("q", "2.5") for m in ("trunc", "floor")),
    *(f"p.clone().div_({other}, rounding_mode={m!r})" for other in ("q", "2.5") for m in ("trunc", "floor")),
    *calls(CALLS),
    *(f"gradient(lambda v: {call}, x)" for call in calls(DIFFERENTIABLE)),
]


def inputs() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 6, generator=draw) for _ in range(2))
    i, j = (torch.randint(1, 9, (4, 6), generator=draw) for _ in range(2))
    made = {"x": x, "y": y, "p": x.abs() + 0.1, "q": y.abs() + 0.5, "h": x.bfloat16(), "i": i, "j": j, "mask": x > y}
    made |= {"ids": torch.tensor([3, 1, 3, 0]), "rows": torch.tensor([2, 0, 3]), "edges": torch.linspace(-2, 2, 7)}
    made |= {"places": torch.stack([torch.randperm(6, generator=draw) for _ in range(4)]), "square": x @ y.t()}
    made |= {"cube": torch.randn(2, 3, 3, generator=draw), "signal": torch.randn(1, 3, 9, generator=draw)}
    made |= {"kernel": torch.randn(3, 1, 2, generator=draw), "image": torch.randn(1, 3, 5, 5, generator=draw)}
    return made | {"filters": torch.randn(2, 3, 2, 2, generator=draw)[:, :1].repeat(1, 3, 1, 1)}


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    (function(x) * 1.5).sum().backward()
    assert x.grad is not None
    return x.grad


def evaluate(expression: str, device: str) -> Any:
    names = {name: value.to(device) for name, value in inputs().items()}
    return eval(expression, globals() | names)


RANDOM = """
torch.randn((64, 8), device='npu').std() ; torch.rand((64, 8), device='npu').max() ; torch.randperm(9, device='npu').sum()
torch.randint(3, 5, (64,), device='npu').max() ; torch.multinomial(torch.ones(4, device='npu'), 4).sum()
"""
"""What has no right answer, but a range."""


def flat(value: object) -> list[torch.Tensor]:
    values = value if isinstance(value, (tuple, list)) else [value]
    return [v.cpu() if isinstance(v, torch.Tensor) else torch.tensor(v) for v in values]


def difference(expression: str) -> str:
    """What is wrong with an expression on the device, "" for nothing."""
    try:
        for got, right in zip(flat(evaluate(expression, "npu")), flat(evaluate(expression, "cpu")), strict=True):
            torch.testing.assert_close(got, right)
    except Exception as error:
        return str(error)
    return ""


def main() -> None:
    found = {expression: text for expression in EXPRESSIONS if (text := difference(expression))}
    import cann.started
    from cann.dispatch import operators

    families = {name: operator.run.__module__ for name, operator in operators.items()}
    random = [float(eval(expression)) for expression in calls(RANDOM)]
    told = {
        "random": random,
        "count": len(EXPRESSIONS),
        "wrong": found,
        "called": cann.started.dispatcher.calls,
        "declared": families,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
