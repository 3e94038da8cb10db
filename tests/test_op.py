"""Operators: what a declaration refuses, what has a gradient, twins, and torch's compile and export."""

import itertools
from collections.abc import Callable
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor

from deepport import ops
from deepport.errors import BackendBroken
from deepport.kernel import YES, Kernel, TensorSpec, no
from deepport.op import Operator, operator, operators
from deepport.spec import EXACT, Case, Cost

FORWARD = [o for o in operators.values() if not o.name.endswith("_backward")]
DIFFERENTIABLE = [o for o in FORWARD if o.differentiable]
TWINS = [o for o in FORWARD if o.mutates]


def named(found: list[Operator[..., Any]]) -> Any:
    return [pytest.param(o, id=o.name) for o in found]


def middle_case(found: Operator[..., Any]) -> Case:
    """A case with work to do: the first ones are often the smallest."""
    return found.cases[len(found.cases) // 2]


def results(value: Any) -> list[Tensor]:
    return [] if value is None else [value] if isinstance(value, Tensor) else list(value)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit for bit, NaN and float8 included."""
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and torch.equal(bits(x), bits(y)) for x, y in zip(a, b, strict=True)
    )


def bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().view(-1).view(torch.uint8)


# Declaring


def declare(reference: Callable[..., Any], **options: Any) -> Operator[..., Any]:
    return operator(cost=lambda *a: Cost(0.0, 0.0), cases=list, tolerance=EXACT, **options)(reference)


def double_it(x: Tensor, times: int = 2) -> Tensor:
    return x * times


@pytest.mark.parametrize("option", ["mutates", "differentiable", "home"])
def test_an_argument_that_does_not_exist_is_refused(option: str) -> None:
    with pytest.raises(TypeError) as caught:
        declare(double_it, **{option: "y" if option == "home" else ("y",)})
    assert str(caught.value) == "double_it: no argument is called 'y'; it takes x, times"
    assert "double_it" not in operators and not hasattr(torch.ops.deepport, "double_it")


def test_a_name_is_declared_once() -> None:
    def rms_norm(x: Tensor) -> Tensor:
        return x

    with pytest.raises(
        ValueError, match=r"^rms_norm: an operator of this name is already declared, in deepport.ops.dense$"
    ):
        declare(rms_norm)
    assert operators["rms_norm"] is ops.rms_norm


def test_a_reference_without_annotations_is_refused() -> None:
    with pytest.raises(ValueError, match="type annotation"):
        declare(lambda x: x)


def test_operators_are_read_only() -> None:
    with pytest.raises(TypeError):
        operators["mine"] = ops.linear  # type: ignore[index]


def test_every_operator_is_exported_under_its_name() -> None:
    assert {o.name for o in FORWARD} == set(ops.__all__)
    for found in FORWARD:
        assert getattr(ops, found.name) is found
        assert found.__doc__, f"{found.name} does not say what it means"
        assert repr(found) == f"<operator {found.name}{found.schema}>"


# Kernels


def plain(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False) -> Tensor:
    return x


def renamed(
    x: Tensor, weight: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False
) -> Tensor:
    return x


def undefaulted(x: Tensor, w: Tensor, scale: Tensor | None, format: str, wide: bool) -> Tensor:
    return x


def widened(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False
) -> tuple[Tensor, Tensor]:
    return x, w


def test_a_kernel_of_the_operators_schema_is_accepted() -> None:
    ops.linear.check(Kernel("linear", "k", plain), "acme")


@pytest.mark.parametrize(
    ("run", "schema"),
    [
        (renamed, '(Tensor x, Tensor weight, Tensor? scale=None, str format="plain", bool wide=False) -> Tensor'),
        (undefaulted, "(Tensor x, Tensor w, Tensor? scale, str format, bool wide) -> Tensor"),
        (widened, '(Tensor x, Tensor w, Tensor? scale=None, str format="plain", bool wide=False) -> (Tensor, Tensor)'),
    ],
)
def test_a_kernel_of_another_schema_is_refused(run: Callable[..., Any], schema: str) -> None:
    with pytest.raises(BackendBroken) as caught:
        ops.linear.check(Kernel("linear", "k", run), "acme")
    assert str(caught.value) == (
        f"linear: the acme kernel 'k' is {schema} but the operator is "
        '(Tensor x, Tensor w, Tensor? scale=None, str format="plain", bool wide=False) -> Tensor'
    )


def test_supports_answers_are_truth_values_with_reasons() -> None:
    refused = no("dtype", "x is float16")
    assert YES and not refused
    assert (refused.code, refused.reason) == ("dtype", "x is float16")


def test_a_signature_has_every_argument_by_name_and_no_data() -> None:
    x, w = torch.ones(2, 4), torch.ones(4, 3).T
    signature = ops.linear.signature((x, w))
    assert signature["x"] == TensorSpec(torch.float32, (2, 4), (4, 1))
    assert signature["w"] == TensorSpec(torch.float32, (3, 4), (1, 3))
    assert (signature["scale"], signature["format"]) == (None, "plain")
    assert signature["x"].contiguous and not signature["w"].contiguous
    backward = operators["linear_backward"].signature(([x, None], [True], x, w, None, "plain", False))
    assert backward["grads"] == (signature["x"], None)


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((2, 1, 3), (3, 99, 1)), ((), ()), ((1,), (7,)), ((0, 3), (3, 1)), ((2, 3), (1, 2)), ((2,), (2,))],
)
def test_contiguous_is_torchs(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    tensor = torch.empty_strided(shape, stride)
    assert TensorSpec(tensor.dtype, shape, stride).contiguous == tensor.is_contiguous()


# Gradients


def leaves(found: Operator[..., Any], arguments: dict[str, Any]) -> list[str]:
    """Make the arguments with a gradient require one; those that are quantised cannot."""
    names = [n for n in found.differentiable if arguments[n] is not None and arguments[n].element_size() > 1]
    for name in names:
        arguments[name].requires_grad_()
    return names


@pytest.mark.parametrize("found", named(FORWARD))
def test_a_backward_operator_exists_where_a_gradient_does(found: Operator[..., Any]) -> None:
    backward = operators.get(f"{found.name}_backward")
    assert found.backward is backward
    assert (backward is not None) == bool(found.differentiable)
    assert not (found.mutates and found.differentiable)
    if backward is not None:
        assert backward.schema.startswith("(Tensor?[] grads, bool[] output_mask, ")
        assert backward.parameters == ("grads", "output_mask", *found.parameters)
        assert backward.home == found.home


@pytest.mark.parametrize("found", named(DIFFERENTIABLE))
def test_backward_returns_what_the_mask_asks_for(found: Operator[..., Any]) -> None:
    """Called directly: one gradient a masked argument, in order, whatever else is asked."""
    assert found.backward is not None
    case = next(c for c in found.cases if len(leaves(found, c.arguments())) == len(found.differentiable))
    arguments = [case.arguments()[n] for n in found.parameters]
    grads = [torch.ones_like(r) if r.is_floating_point() else None for r in results(found(*arguments))]
    complete = found.backward(grads, [True] * len(found.differentiable), *arguments)
    assert [g.shape for g in complete] == [case.arguments()[n].shape for n in found.differentiable]
    for index in range(len(found.differentiable)):
        mask = [i == index for i in range(len(found.differentiable))]
        (alone,) = found.backward(grads, mask, *arguments)
        assert torch.allclose(alone, complete[index], equal_nan=True)
    nothing = found.backward([None] * len(grads), [True] * len(found.differentiable), *arguments)
    assert not any(g.any() for g in nothing)


def test_an_argument_without_a_gradient_must_not_require_one() -> None:
    x, w, scale = torch.ones(2, 4), torch.ones(3, 4, dtype=torch.int8), torch.ones(3, 1, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^linear: no gradient is defined for 'scale', which requires one$"):
        ops.linear(x, w, scale, "int8:row")
    with torch.no_grad():
        ops.linear(x, w, scale, "int8:row")


def test_a_float_result_without_a_gradient_is_refused_rather_than_cut_off() -> None:
    data, scale = torch.ones(3, 4, dtype=torch.int8), torch.ones(3, 1, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"^dequantize: no gradient is defined, but an argument requires one$"):
        ops.dequantize(data, scale, "int8:row", torch.float32)
    with torch.no_grad():
        ops.dequantize(data, scale, "int8:row", torch.float32)


def test_ids_may_be_computed_from_what_requires_a_gradient() -> None:
    arguments = middle_case(ops.index_topk).arguments()
    for name in ("q", "weights"):
        arguments[name].requires_grad_()
    ids = ops.index_topk(**arguments)
    assert ids.dtype == torch.int32 and not ids.requires_grad


# Twins


@pytest.mark.parametrize("mutating", named(TWINS))
def test_a_mutating_operator_refuses_a_gradient_and_names_its_twin(mutating: Operator[..., Any]) -> None:
    arguments = middle_case(mutating).arguments()
    twin = operators[mutating.name.removesuffix("_")]
    arguments[twin.differentiable[-1]].requires_grad_()
    written = ", ".join(mutating.mutates)
    before = {n: arguments[n].clone() for n in mutating.mutates}
    with pytest.raises(RuntimeError) as caught:
        mutating(**arguments)
    assert str(caught.value) == (
        f"{mutating.name}: no gradient is defined, because it writes to {written}; {twin.name} is its functional twin"
    )
    assert all(torch.equal(arguments[n], before[n]) for n in mutating.mutates), "it wrote before it refused"
    with torch.no_grad():
        mutating(**arguments)


@pytest.mark.parametrize(
    ("mutating", "case"), [pytest.param(o, c, id=f"{o.name}-{c.label}") for o in TWINS for c in o.cases]
)
def test_twins_agree_bit_for_bit(mutating: Operator[..., Any], case: Case) -> None:
    """The twin's results are the mutating one's, followed by what that wrote."""
    twin = operators[mutating.name.removesuffix("_")]
    arguments, untouched = case.arguments(), case.arguments()
    returned = results(mutating(**arguments))
    assert same([*returned, *(arguments[n] for n in mutating.mutates)], results(twin(**untouched)))
    assert same([untouched[n] for n in mutating.mutates], [case.arguments()[n] for n in mutating.mutates])


def test_every_mutating_operator_writes() -> None:
    """Or the twins would agree by doing nothing."""
    for mutating in TWINS:
        arguments = middle_case(mutating).arguments()
        before = [arguments[n].clone() for n in mutating.mutates]
        mutating(**arguments)
        assert not same(before, [arguments[n] for n in mutating.mutates]), mutating.name


# Compile and export


def compiled(found: Operator[..., Any], compiler: str) -> Callable[..., Any]:
    torch.compiler.reset()
    run: Callable[..., Any] = torch.compile(lambda *a: found(*a), fullgraph=True, backend=compiler)
    return run


def outcome(run: Callable[..., Any], found: Operator[..., Any]) -> list[Tensor]:
    """What a call returns and what it wrote."""
    arguments = middle_case(found).arguments()
    with torch.inference_mode():
        returned = results(run(*(arguments[n] for n in found.parameters)))
        return [t.clone() for t in (*returned, *(arguments[n] for n in found.mutates))]


@pytest.mark.parametrize("found", named(FORWARD))
def test_compiles_without_a_graph_break(found: Operator[..., Any]) -> None:
    assert same(outcome(compiled(found, "aot_eager"), found), outcome(found, found))


# torch's inductor imports what torch itself has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("found", named([ops.swiglu, ops.write_pages_]))
def test_compiles_with_inductor(found: Operator[..., Any]) -> None:
    assert same(outcome(compiled(found, "inductor"), found), outcome(found, found))


def test_compiles_a_training_step() -> None:
    x, w = torch.randn(2, 4), torch.randn(3, 4)
    found = []
    for run in (compiled(ops.linear, "aot_eager"), ops.linear):
        leaf = x.clone().requires_grad_()
        run(leaf, w).square().sum().backward()
        found.append(leaf.grad)
    assert found[0] is not None and found[1] is not None and torch.equal(found[0], found[1])


@pytest.mark.parametrize("found", named(FORWARD))
def test_exports(found: Operator[..., Any]) -> None:
    """One node, the operator's own; the exported program computes what the operator does."""
    arguments = middle_case(found).arguments()
    tensors = [n for n in found.parameters if isinstance(arguments[n], Tensor)]

    class Module(torch.nn.Module):
        def forward(self, *given: Tensor) -> Any:
            return found(**(arguments | dict(zip(tensors, given, strict=True))))

    with torch.inference_mode():
        program = torch.export.export(Module(), tuple(arguments[n] for n in tensors))
    targets = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert [t for t in targets if t is not getitem] == [found.overload]
    exported = program.module()
    assert same(outcome(lambda *a: exported(*(x for x in a if isinstance(x, Tensor))), found), outcome(found, found))


@pytest.mark.parametrize("found", named(FORWARD))
def test_meta_tensors_have_the_results_shapes(found: Operator[..., Any]) -> None:
    """On every case: shapes, strides and dtypes without data."""
    for case in itertools.islice(found.cases, 12):
        arguments = case.arguments()
        real = results(found(**arguments))
        meta = {n: a.to("meta") if isinstance(a, Tensor) else a for n, a in arguments.items()}
        planned = results(found(**meta))
        assert [layout(t) for t in planned] == [layout(t) for t in real]
        assert all(t.is_meta for t in planned)


def layout(t: Tensor) -> tuple[Any, ...]:
    """Shape, dtype, and the strides that mean something."""
    return t.shape, t.dtype, [s for size, s in zip(t.shape, t.stride(), strict=True) if size > 1 and t.numel()]
