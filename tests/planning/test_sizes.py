"""Sizes on paper against tensors that are there."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepport.planning.estimate import Load, Planner
from deepport.planning.sizes import ACTIVATIONS, TABLES, Part, Sizes, parameters, sizes, weights
from deepport.planning.trace import _Tracing
from deepport_model.engram import EngramTable
from deepport_model.moe import Router
from deepport_model.presets import V4_FLASH, V4_PRO
from planning.models import WITH_ENGRAM, paper, planner, real

FLASH = 284e9
PRO = 1.6e12


def by_name(found: Sizes) -> dict[str, int]:
    return {part.name: part.bytes for part in found.parts}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_keeps_what_its_plan_says(dtype: torch.dtype) -> None:
    """All tensors of a model that is there, its memory for sequences, and what a prompt's step makes: within 3%."""
    model = real(WITH_ENGRAM, dtype)
    cache = model.cache(2, 700, 256)
    with torch.inference_mode():
        batch = cache.append({0: list(range(256))})
        with _Tracing(lambda: "", model, cache) as found:
            model.step(batch, cache, "last")
    held: dict[int, Tensor] = {
        t.data_ptr(): t for t in (*model.parameters(), *model.buffers(), *(t for _, t in cache.held()))
    }
    load = [m.load for m in model.modules() if isinstance(m, Router)]  # counted on the host, in training
    measured = sum(t.nbytes for t in held.values()) - sum(t.nbytes for t in load) + found.peak
    planned = Planner(paper(WITH_ENGRAM, dtype)).sizes(Load(700, 2, 256, "device"))
    assert abs(measured / sum(p.bytes for p in planned.parts) - 1) < 0.03
    assert by_name(planned)[TABLES] == sum(m.rows.nbytes for m in model.modules() if isinstance(m, EngramTable))


def tensors(holder: object) -> Iterator[Tensor]:
    """All that an object holds, however deep."""
    if isinstance(holder, Tensor):
        yield holder
    elif isinstance(holder, (list, tuple)):
        yield from (t for item in holder for t in tensors(item))
    elif isinstance(holder, dict):
        yield from tensors(list(holder.values()))
    elif type(holder).__module__ == "deepport_model.cache":
        yield from tensors(vars(holder))


def test_nothing_that_a_cache_holds_is_left_out() -> None:
    cache = real(WITH_ENGRAM).cache(2, 700, 256)
    found, all_of_it = ({t.data_ptr() for t in ts} for ts in ((t for _, t in cache.held()), tensors(cache)))
    assert found == all_of_it and len(found) > 3 * len(cache.layers)
    assert len({name for name, _ in cache.held()}) == 6


def test_published_numbers_of_parameters() -> None:
    assert parameters(paper(V4_FLASH))[0] == pytest.approx(FLASH, rel=0.005)
    assert parameters(paper(V4_PRO))[0] == pytest.approx(PRO, rel=0.02)
    assert parameters(paper(V4_FLASH, format="mxfp4+fp8")) == parameters(paper(V4_FLASH))


def test_every_tensor_is_of_one_class() -> None:
    model = paper(WITH_ENGRAM, format="mxfp4+int8+fp8")
    classes = {name for name, _ in weights(model)}
    assert classes == {
        "engram tables", "weights mxfp4", "weights int8:row", "weights bfloat16", "weights float32", "weights int64"
    }  # fmt: skip
    counted = [t for _, t in weights(model)]
    expected = [t for n, t in (*model.named_parameters(), *model.named_buffers()) if not n.endswith(".load")]
    assert sum(t.nbytes for t in counted) == sum(t.nbytes for t in expected)


def test_a_table_of_v41_takes_what_is_published() -> None:
    """94.4 GiB each of two: rows of 256 bytes and 8 of scales."""
    found = by_name(planner("v4-flash-engram", "mxfp4+fp8+fp8").sizes(Load(1024, 1, 64, "host")))
    assert found[TABLES] / 2 / 2**30 == pytest.approx(94.4, abs=0.05)


def test_parts_lie_where_they_are_placed() -> None:
    found = Sizes((Part("weights bfloat16", 10), Part(TABLES, 100, "host"), Part(ACTIVATIONS, 7, divided=False)))
    assert [found.device(n) for n in (1, 3, 10)] == [17, 11, 8]
    assert (found.elsewhere("host"), found.elsewhere("mmap")) == (100, 0)


LOADS = st.builds(
    Load, st.integers(1, 1 << 20), st.integers(1, 64), st.integers(1, 2048), st.sampled_from(["device", "host"])
)


@settings(deadline=None, max_examples=40)
@given(LOADS, st.integers(1, 512), st.integers(0, 1 << 16), st.integers(0, 64))
def test_more_devices_need_no_more_and_longer_contexts_no_less(
    load: Load, devices: int, longer: int, more: int
) -> None:
    model = planner("tiny-engram").transformer
    plain = sizes(model, load.batch, load.context, load.chunk, load.engram, peak=1000)
    assert plain.device(devices + 1) <= plain.device(devices)
    context = min(load.context + longer, 1 << 20)
    assert sizes(model, load.batch, context, load.chunk, load.engram, 1000).device(devices) >= plain.device(devices)
    assert sizes(model, load.batch + more, load.context, load.chunk, load.engram, 1000).device(devices) >= plain.device(
        devices
    )
    host = sizes(model, load.batch, load.context, load.chunk, "host", 1000)
    assert host.device(devices) <= plain.device(devices)
