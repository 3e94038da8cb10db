"""Operators: what a model may ask of a device.

An operator is an object whose plain-torch reference is its meaning, its schema, its shape rule, its gradient and its
fallback. Declaring one registers it with `torch.library` under `torch.ops.deepport`, so that it compiles, exports and
traces on fake tensors; calling it asks the current session (`deepport.policy`) who computes the call.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor
from torch.library import Library, infer_schema, register_autograd, register_fake

from deepport.errors import BackendBroken
from deepport.spec import Case, Cases, Cost, Tolerance

P = ParamSpec("P")
R = TypeVar("R")

_library = Library("deepport", "DEF")
_operators: dict[str, Operator[..., Any]] = {}
operators: Mapping[str, Operator[..., Any]] = MappingProxyType(_operators)
"""Every declared operator by name, read-only."""


@dataclass(frozen=True)
class TensorSpec:
    """What a kernel may know of a tensor before it runs: never its data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class Signature:
    """One call without its data: `signature["x"].dtype`, `signature["eps"]`."""

    operator: str
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass(frozen=True)
class Support:
    """A kernel's answer to a signature: yes, or no with a code to count and a reason to read."""

    ok: bool
    code: str = ""
    reason: str = ""

    def __bool__(self) -> bool:
        return self.ok


YES = Support(True)


def no(code: str, reason: str) -> Support:
    """A refusal. `code` is one of: dtype, format, shape, layout, attribute, device, version."""
    return Support(False, code, reason)


@dataclass(frozen=True)
class Kernel:
    """One backend's way of computing an operator; its identity is (operator, backend, name).

    `supports` is a pure function of the signature. `mutates` repeats the operator's declared mutations, so that a kernel
    which writes to an argument has to say so to be accepted.
    """

    operator: str
    name: str
    run: Callable[..., Any]
    supports: Callable[[Signature], Support] = lambda signature: YES
    mutates: tuple[str, ...] = ()


class Server(Protocol):
    """Decides who computes a call; `deepport.policy.Session` implements it."""

    def serve(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> Any: ...

    def trace(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> None: ...


current_server: ContextVar[Server] = ContextVar("deepport_server")


class Operator(Generic[P, R]):
    """A named computation, declared by `@operator`.

    Attributes:
        reference: the meaning, in plain torch. It runs on any device and never calls another operator's kernel.
        schema: what crosses `torch.library`, inferred from the reference's annotations.
        mutates: arguments that the operator writes to; such an operator is for inference only.
        differentiable: arguments with a gradient, which is autograd through the reference.
        backward: the operator `<name>_backward` that computes it, or None.
        cost: flops and bytes of a call, from shapes alone (an upper bound where the work depends on data).
        home: the argument whose device chooses the backend when tensors are on several devices.
    """

    def __init__(
        self,
        reference: Callable[P, R],
        *,
        name: str,
        schema: str,
        fake: Callable[..., R],
        cost: Callable[..., Cost],
        cases: Cases,
        tolerance: Tolerance,
        mutates: tuple[str, ...] = (),
        differentiable: tuple[str, ...] = (),
        home: str | None = None,
    ) -> None:
        if name in _operators:
            raise ValueError(f"{name}: an operator of this name is already declared, in {_operators[name].__module__}")
        self.name, self.schema, self.reference, self.fake = name, schema, reference, fake
        self.__doc__, self.__module__ = reference.__doc__, reference.__module__
        self.mutates, self.differentiable, self.home = mutates, differentiable, home
        self.cost, self.tolerance, self._cases = cost, tolerance, cases
        _library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.overload = getattr(torch.ops.deepport, name).default
        declared = self.overload._schema.arguments
        self.parameters: tuple[str, ...] = tuple(a.name for a in declared)
        # From the reference, not from the schema, which holds a default dtype as a number.
        signature = inspect.signature(reference).parameters.values()
        self.defaults: dict[str, Any] = {p.name: p.default for p in signature if p.default is not p.empty}
        _library.impl(name, self._serve, "CompositeExplicitAutograd")
        register_fake(f"deepport::{name}", self._trace, lib=_library)
        self._register_gradient()
        _operators[name] = self

    backward: Operator[..., list[Tensor]] | None = None

    @property
    def cases(self) -> list[Case]:
        """The calls that every backend must answer."""
        return list(self._cases())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.overload(*args, **kwargs)
        return result

    def __repr__(self) -> str:
        return f"<operator {self.name}{self.schema}>"

    def bind(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """Arguments by name; the dispatcher drops trailing ones that equal their default."""
        given = dict(zip(self.parameters, arguments, strict=False))
        return given | {n: self.defaults[n] for n in self.parameters[len(arguments) :]}

    def signature(self, arguments: tuple[Any, ...]) -> Signature:
        return Signature(self.name, {n: _spec(a) for n, a in self.bind(arguments).items()})

    def check(self, kernel: Kernel, backend: str) -> None:
        """Refuse (BackendBroken) a kernel whose schema or declared mutations are not the operator's."""
        if set(kernel.mutates) != set(self.mutates):
            raise BackendBroken(
                f"{self.name}: the {backend} kernel {kernel.name!r} declares that it writes to "
                f"{_listed(kernel.mutates)} but the operator writes to {_listed(self.mutates)}"
            )
        try:
            found = infer_schema(kernel.run, mutates_args=kernel.mutates)
        except ValueError as error:
            raise BackendBroken(f"{self.name}: the {backend} kernel {kernel.name!r} has no schema: {error}") from error
        if found != self.schema:
            raise BackendBroken(
                f"{self.name}: the {backend} kernel {kernel.name!r} is {found} but the operator is {self.schema}"
            )

    def _serve(self, *args: Any) -> Any:
        return current_server.get(default_server()).serve(self, args)

    def _trace(self, *args: Any) -> Any:
        current_server.get(default_server()).trace(self, args)
        return self.fake(*args)

    def _register_gradient(self) -> None:
        if self.differentiable:
            self.backward = _declare_backward(self)
            _register_autograd(self, self.backward)
        else:
            _library.impl(self.name, self._without_gradient, "Autograd", with_keyset=True)

    def _without_gradient(self, keyset: Any, *args: Any) -> Any:
        """Ids may be computed from anything; a float result of inputs that require a gradient would silently lose it."""
        wanted = torch.is_grad_enabled() and any(t.requires_grad for a in args for t in _tensors(a))
        if wanted and self.mutates:
            hint = f"; {self.name.rstrip('_')} is its functional twin" if self.name.endswith("_") else ""
            raise RuntimeError(
                f"{self.name}: no gradient is defined, because it writes to {_listed(self.mutates)}{hint}"
            )
        # no_grad rather than excluding the autograd keys: a backward operator replays its reference under enable_grad.
        with torch.no_grad():
            result = self.overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        if wanted and any(t.is_floating_point() for t in _tensors(_flat(result))):
            raise RuntimeError(f"{self.name}: no gradient is defined, but an argument requires one")
        return result


_default: list[Server] = []


def set_default_server(server: Server) -> None:
    """Install the session that serves calls made outside any session (`deepport.policy` does, once)."""
    _default[:] = [server]


def default_server() -> Server:
    if not _default:
        import deepport.policy  # noqa: F401  (installs itself)
    return _default[0]


def operator(
    *,
    cost: Callable[..., Cost],
    cases: Cases,
    tolerance: Tolerance,
    fake: Callable[..., Any] | None = None,
    mutates: tuple[str, ...] = (),
    differentiable: tuple[str, ...] = (),
    home: str | None = None,
) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Declare the decorated reference as an operator of the same name.

    `fake` computes output shapes on fake tensors; leave it out where the reference itself can (no data-dependent code).
    Raises TypeError for a name that is not an argument, ValueError for an operator that is already declared or a reference
    that has no schema.
    """

    def declare(reference: Callable[P, R]) -> Operator[P, R]:
        takes = list(inspect.signature(reference).parameters)
        if unknown := [n for n in (*mutates, *differentiable, *([home] if home else [])) if n not in takes]:
            raise TypeError(f"{reference.__name__}: no argument is called {unknown[0]!r}; it takes {', '.join(takes)}")
        return Operator(
            reference,
            name=reference.__name__,
            schema=infer_schema(reference, mutates_args=mutates),
            fake=fake or reference,
            cost=cost,
            cases=cases,
            tolerance=tolerance,
            mutates=mutates,
            differentiable=differentiable,
            home=home,
        )

    return declare


def _declare_backward(forward: Operator[..., Any]) -> Operator[..., list[Tensor]]:
    """`<name>_backward(grads, output_mask, *arguments)`: gradients of the masked differentiable arguments.

    An operator of its own, so that compile and export see no data-dependent code and a backend may declare a kernel.
    """
    indices = [forward.parameters.index(n) for n in forward.differentiable]

    def replay(grads: list[Tensor | None], output_mask: list[bool], *args: Any) -> list[Tensor]:
        if torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality):
            raise RuntimeError(f"{forward.name}: its gradient was asked for where autograd cannot record")
        complete = list(forward.bind(args).values())
        wanted = [i for i, m in zip(indices, output_mask, strict=True) if m]
        with torch.enable_grad():
            leaves = {i: complete[i].detach().requires_grad_() for i in wanted}
            outputs = _flat(forward.reference(*(leaves.get(i, a) for i, a in enumerate(complete))))
            pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
            found = (
                torch.autograd.grad(
                    [o for o, _ in pairs], list(leaves.values()), [g for _, g in pairs], allow_unused=True
                )
                if pairs
                else [None] * len(wanted)
            )
        return [
            torch.zeros_like(leaf, memory_format=torch.contiguous_format) if g is None else g.contiguous()
            for g, leaf in zip(found, leaves.values(), strict=True)
        ]

    def fake(grads: list[Tensor | None], output_mask: list[bool], *args: Any) -> list[Tensor]:
        complete = list(forward.bind(args).values())
        shaped = [complete[i] for i, m in zip(indices, output_mask, strict=True) if m]
        return [t.new_empty(t.shape) for t in shaped]

    def cost(grads: list[Tensor | None], output_mask: list[bool], *args: Any) -> Cost:
        once = forward.cost(*args)
        return Cost(3 * once.flops, 3 * once.bytes)

    replay.__doc__ = f"Gradient of `{forward.name}`: autograd through its reference."
    arguments = re.sub(r"=[^,)]+", "", forward.schema.partition(" -> ")[0][1:])
    schema = f"(Tensor?[] grads, bool[] output_mask, {arguments} -> Tensor[]"
    return Operator(
        replay,
        name=f"{forward.name}_backward",
        schema=schema,
        fake=fake,
        cost=cost,
        cases=list,
        tolerance=forward.tolerance,
        home=forward.home,
    )


def _register_autograd(forward: Operator[..., Any], backward: Operator[..., list[Tensor]]) -> None:
    indices = [forward.parameters.index(n) for n in forward.differentiable]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        for i, (name, value) in enumerate(zip(forward.parameters, inputs, strict=True)):
            if i not in indices and isinstance(value, Tensor) and value.requires_grad:
                raise RuntimeError(f"{forward.name}: no gradient is defined for {name!r}, which requires one")
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(a if isinstance(a, Tensor) else None for a in inputs))
        ctx.scalars = [None if isinstance(a, Tensor) else a for a in inputs]
        ctx.server = current_server.get(None)

    def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = [s if t is None else t for t, s in zip(ctx.saved_tensors, ctx.scalars, strict=True)]
        # The dispatcher drops trailing arguments that equal their default, and so does needs_input_grad.
        needs = [*ctx.needs_input_grad, *[False] * len(arguments)]
        mask = [needs[i] for i in indices]
        # Devices' backward passes run on threads of their own, which do not inherit the forward pass's session.
        token = current_server.set(ctx.server) if ctx.server else None
        try:
            found: Iterator[Tensor] = iter(backward(list(grads), mask, *arguments))
        finally:
            if token:
                current_server.reset(token)
        by_index = {i: next(found) for i, m in zip(indices, mask, strict=True) if m}
        return tuple(by_index.get(i) for i in range(len(arguments)))

    register_autograd(f"deepport::{forward.name}", differentiate, setup_context=setup, lib=_library)


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorSpec(value.dtype, tuple(value.shape), tuple(value.stride()))
    return tuple(map(_spec, value)) if isinstance(value, list) else value


def _tensors(value: Any) -> list[Tensor]:
    return (
        [value]
        if isinstance(value, Tensor)
        else [t for t in value if isinstance(t, Tensor)]
        if isinstance(value, list)
        else []
    )


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"
