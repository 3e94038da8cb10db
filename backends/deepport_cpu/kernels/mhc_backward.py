"""Gradients of residual streams (`csrc/cpu/mhc.h`)."""

import torch
from torch import Tensor

from deepport.fit import dtypes, floats, gradients, paired, shapes
from deepport.kernel import Kernel, Signature, Support
from deepport_cpu.native import asked, call, dense, like, of_result


def mhc_pre_backward(
    grads: list[Tensor | None],
    output_mask: list[bool],
    streams: Tensor,
    fn: Tensor,
    scale: Tensor,
    base: Tensor,
    iters: int,
    eps: float,
    norm_eps: float,
) -> list[Tensor]:
    given = (dense(streams), dense(fn), dense(scale), dense(base))
    found = _room(output_mask, streams, fn, scale, base)
    sizes = (streams.dtype, *streams.shape, iters, eps, norm_eps)
    call.mhc_pre_backward(*map(dense, grads), *given, *found, *sizes)
    return asked(found, output_mask)


def mhc_head_backward(
    grads: list[Tensor | None],
    output_mask: list[bool],
    streams: Tensor,
    fn: Tensor,
    scale: Tensor,
    base: Tensor,
    eps: float,
    norm_eps: float,
) -> list[Tensor]:
    given = (dense(streams), dense(fn), dense(scale), dense(base))
    found = _room(output_mask, streams, fn, scale, base)
    call.mhc_head_backward(*map(dense, grads), *given, *found, streams.dtype, *streams.shape, eps, norm_eps)
    return asked(found, output_mask)


def mhc_post_backward(
    grads: list[Tensor | None], output_mask: list[bool], y: Tensor, streams: Tensor, post: Tensor, comb: Tensor
) -> list[Tensor]:
    given = (dense(y), dense(streams), dense(post), dense(comb))
    found = _room(output_mask, y, streams, post, comb)
    call.mhc_post_backward(dense(of_result(grads, streams)), *given, *found, streams.dtype, *streams.shape)
    return asked(found, output_mask)


def _room(output_mask: list[bool], *arguments: Tensor) -> list[Tensor | None]:
    """For the gradients of the masked arguments; None for the others'."""
    return [like(t) if wanted else None for t, wanted in zip(arguments, output_mask, strict=True)]


def _pre(signature: Signature) -> Support:
    return paired(signature, 3, 4) and _takes_pre(gradients(signature, "d_y", "d_post", "d_comb"))


def _takes_pre(signature: Signature) -> Support:
    return (
        _collapse(signature)
        and dtypes(signature, d_post=torch.float32, d_comb=torch.float32)
        and shapes(signature, streams="T n C", fn="(2+n)*n n*C", scale="3", base="(2+n)*n")
        and shapes(signature, streams="T n C", d_y="T C", d_post="T n", d_comb="T n n")
    )


def _head(signature: Signature) -> Support:
    return paired(signature, 1, 4) and _takes_head(gradients(signature, "d_y"))


def _takes_head(signature: Signature) -> Support:
    return _collapse(signature) and shapes(signature, streams="T n C", fn="n n*C", scale="1", base="n", d_y="T C")


def _collapse(signature: Signature) -> Support:
    return floats(signature, "streams", "d_y") and dtypes(
        signature, fn=torch.float32, scale=torch.float32, base=torch.float32
    )


def _post(signature: Signature) -> Support:
    return paired(signature, 1, 4) and _takes_post(gradients(signature, "d_mixed"))


def _takes_post(signature: Signature) -> Support:
    return (
        floats(signature, "y", "streams", "d_mixed")
        and dtypes(signature, post=torch.float32, comb=torch.float32)
        and shapes(signature, y="T C", streams="T n C", post="T n", comb="T n n", d_mixed="T n C")
    )


KERNELS = (
    Kernel("mhc_pre_backward", "native", mhc_pre_backward, _pre),
    Kernel("mhc_head_backward", "native", mhc_head_backward, _head),
    Kernel("mhc_post_backward", "native", mhc_post_backward, _post),
)
