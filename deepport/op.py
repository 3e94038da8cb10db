"""Operators: what a model may ask of a device.

An operator is an object whose plain-torch reference is its meaning, its schema, its shape rule, its gradient and its
fallback. Declaring one registers it with `torch.library` under `torch.ops.deepport`, so that it compiles, exports and
traces on fake tensors; calling it asks the current session (`deepport.policy`) who computes the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.library import Library, infer_schema, register_fake

from deepport import gradient
from deepport.errors import BackendBroken
from deepport.kernel import Kernel, Signature, signature_of
from deepport.server import server
from deepport.spec import Case, Cases, Cost, Tolerance

P = ParamSpec("P")
R = TypeVar("R")

_library = Library("deepport", "DEF")
_operators: dict[str, Operator[..., Any]] = {}
operators: Mapping[str, Operator[..., Any]] = MappingProxyType(_operators)
"""Every declared operator by name, read-only."""


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
        return signature_of(self.name, self.bind(arguments))

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
        return server().serve(self, args)

    def _trace(self, *args: Any) -> Any:
        server().trace(self, args)
        return self.fake(*args)

    def _register_gradient(self) -> None:
        if self.differentiable:
            self.backward = Operator(
                gradient.replay(self),
                name=f"{self.name}_backward",
                schema=gradient.schema(self.schema),
                fake=gradient.fake(self),
                cost=gradient.cost(self),
                cases=list,
                tolerance=self.tolerance,
                home=self.home,
            )
            gradient.register(self, self.backward, _library)
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
        if wanted and any(t.is_floating_point() for t in _tensors(result)):
            raise RuntimeError(f"{self.name}: no gradient is defined, but an argument requires one")
        return result


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


def _tensors(value: Any) -> list[Tensor]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [t for t in values if isinstance(t, Tensor)]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing"
