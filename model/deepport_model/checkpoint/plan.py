"""What must be read to fill a model: every tensor's sources, number format and size, or all that is wrong with them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deepport import formats
from deepport.errors import BadInput
from deepport_model.checkpoint.blocks import Hint, Sample, Span, element, infer_format
from deepport_model.checkpoint.directory import Files
from deepport_model.checkpoint.files import Stored
from deepport_model.checkpoint.names import Place, is_float32, is_prediction, place, scale_name, spell

FORMAT_KEY = "deepport.format."
"""Files of ours state each quantised module's format in their metadata, under this and the module's name."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int64, torch.int32)
Sources = dict[Place, Stored]


@dataclass
class Item:
    """One tensor of the model, to be made with this shape and dtype and filled from `sources`."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: Sources

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class Plan:
    """The items of a model, the formats of its quantised modules by name, and how many tensors are left unread."""

    items: list[Item] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)
    skipped: int = 0


def make_plan(model: nn.Module, files: Files, dtype: torch.dtype | None, hint: Hint = (None, None)) -> Plan:
    """Match a checkpoint with a model; BadInput lists every tensor that is missing, unexpected, or of a wrong shape or format."""
    planner = _Planner(model, files, dtype, hint)
    planner.run()
    if not planner.problems:
        return planner.plan
    counts = Counter(kind for kind, _ in planner.problems)
    total = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    lines = (f"  {kind}: {text}" for kind, text in sorted(planner.problems))
    raise BadInput("\n".join((f"{files.directory}: does not fit the model: {total}", *lines)))


class _Planner:
    """Collects the plan, and the problems as (kind, text)."""

    def __init__(self, model: nn.Module, files: Files, dtype: torch.dtype | None, hint: Hint) -> None:
        self.model, self.files, self.dtype, self.hint = model, files, dtype, hint
        self.plan = Plan()
        self.problems: list[tuple[str, str]] = []

    def run(self) -> None:
        found = self._sources()
        expected: dict[str, Tensor] = self.model.state_dict(keep_vars=True)
        quantised: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, wanted in expected.items():
            owner = name.rpartition(".")[0]
            if scale_name(name) in found and hasattr(self.model.get_submodule(owner), "format"):
                quantised[owner][name] = wanted
            else:
                self._plain(name, wanted, found.pop(name, {}))
        for owner, weights in quantised.items():
            self._quantised(owner, weights, found)
        for sources in found.values():
            self.problems += [("unexpected", stored.name) for stored in sources.values()]

    def _sources(self) -> dict[str, Sources]:
        """The file's tensors, by the model's tensor that they go to."""
        found: dict[str, Sources] = defaultdict(dict)
        for name, stored in self.files.tensors.items():
            if is_prediction(name):
                self.plan.skipped += 1
                continue
            where = place(name)
            if where in found[where.target]:
                self.problems.append(("repeated", f"{name}, also called {found[where.target][where].name}"))
            found[where.target][where] = stored
        return found

    def _plain(self, name: str, wanted: Tensor, sources: Sources) -> None:
        if not self._fits(name, tuple(wanted.shape), sources):
            return
        dtypes = {stored.dtype for stored in sources.values()}
        if wrong := dtypes - set(_FLOATS if wanted.is_floating_point() else _INTEGERS):
            self.problems.append(
                ("wrong format", f"{name}: {wrong.pop()} without a scale, where a {wanted.dtype} belongs")
            )
        elif (dtype := self._dtype(name, wanted, dtypes)) is None:
            self.problems.append(("wrong format", f"{name}: its experts differ in dtype; name the dtype to load"))
        else:
            self.plan.items.append(Item(name, tuple(wanted.shape), dtype, sources))

    def _dtype(self, name: str, wanted: Tensor, dtypes: set[torch.dtype]) -> torch.dtype | None:
        """The dtype to keep a plain tensor in; None where its sources do not agree on one."""
        if not wanted.is_floating_point():
            return wanted.dtype
        if is_float32(name):
            return torch.float32
        return self.dtype or (dtypes.pop() if len(dtypes) == 1 else None)

    def _fits(self, name: str, shape: tuple[int, ...], sources: Sources) -> bool:
        """Whether `sources` fill a tensor of this shape, whole or expert by expert, and nothing but that."""
        places = {Place(name): name}
        if sources and Place(name) not in sources:
            places = {where: spelt for spelt, where in spell(name, "deepseek", shape[0] if shape else 0)}
        wanted = torch.empty(shape, device="meta")
        wrong = [("missing", spelt) for where, spelt in places.items() if where not in sources]
        wrong += [("unexpected", stored.name) for where, stored in sources.items() if where not in places]
        for where in sources.keys() & places.keys():
            stored, needed = sources[where], where.view(wanted).shape
            if stored.shape != needed:
                text = f"{stored.name}: {list(stored.shape)} in the file, {list(needed)} in the model"
                wrong.append(("wrongly shaped", text))
        self.problems += wrong
        return not wrong

    def _quantised(self, owner: str, weights: dict[str, Tensor], found: dict[str, Sources]) -> None:
        """Plan a module's quantised weights, which share one format."""
        parts = [
            (name, tuple(wanted.shape), found.pop(name, {}), found.pop(f"{scale_name(name)}", {}))
            for name, wanted in weights.items()
        ]
        samples = {s for name, shape, data, scales in parts for s in _samples(name, shape, data, scales)}
        try:
            chosen = self._format(owner, samples)
        except ValueError as error:
            self.problems.append(("wrong format", f"{owner}: {error}"))
            return
        self.plan.formats[owner] = chosen
        for name, (*stack, rows, columns), data, scales in parts:
            format = formats.parse(chosen)
            packed = (*stack, rows, columns // format.packing)
            scale_shape = (*stack, *format.scale_shape(rows, columns))
            if self._fits(name, packed, data) & self._fits(f"{scale_name(name)}", scale_shape, scales):
                scale_dtype = next(iter(scales.values())).dtype
                self.plan.items.append(Item(name, packed, format.dtype, data))
                self.plan.items.append(Item(f"{scale_name(name)}", scale_shape, scale_dtype, scales))

    def _format(self, owner: str, samples: set[Sample]) -> str:
        """A module's format: what the file states, or else what its shapes say."""
        stated = self.files.metadata.get(FORMAT_KEY + owner)
        if stated is None:
            return infer_format(samples, self.hint)
        if formats.parse(stated).element != element(samples):
            raise ValueError(f"the file's metadata says {stated}, but the tensors are {element(samples)}")
        return stated


def _samples(name: str, shape: tuple[int, ...], data: Sources, scales: Sources) -> Iterator[Sample]:
    """The matrices of a weight that have a scale, as the model needs them: their true sizes are checked with the format."""
    wanted = torch.empty(shape, device="meta")
    for where, stored in data.items():
        scale = scales.get(Place(f"{scale_name(name)}", where.expert, where.part))
        if scale is None or len(scale.shape) < 2 or (where.expert or 0) >= shape[0]:
            continue
        rows, columns = where.view(wanted).shape[-2:]
        spans = (Span(rows, scale.shape[-2], where.part in ("w1", "w3")), Span(columns, scale.shape[-1]))
        yield Sample(stored.dtype, scale.dtype, *spans)
