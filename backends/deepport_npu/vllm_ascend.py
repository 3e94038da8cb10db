"""vllm-ascend's operators, `torch.ops._C_ascend`, where that package is installed.

They are used without the package: its `__init__` puts stand-ins of Triton's modules into `sys.modules`, and its own way to them,
`enable_custom_op`, imports vllm. What that does for them is done here: one library registers them with torch as it is loaded, and
CANN finds their kernels through ASCEND_CUSTOM_OPP_PATH (vllm-ascend 182b75e: vllm_ascend/utils.py).

Each was written for one schema, which stands in the capability table; where the installed library has another, it is refused.
Evidence is E1, schema checked: no machine of ours has run them.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from deepport.kernel import YES, Support, no
from deepport.probing import printable
from deepport_npu import capability

_KERNELS = Path("_cann_ops_custom", "vendors", "custom_transformer")
"""Where the package has its kernels, beside its library."""


def library() -> Path | None:
    """The library that registers the operators, found without importing the package; None where it is not installed."""
    spec = find_spec("vllm_ascend")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return next((path for folder in folders for path in sorted(Path(folder).glob("vllm_ascend_C*.so"))), None)


@cache
def load() -> str:
    """Load the operators, once, and after torch_npu. Returns why there are none, "" where they are loaded."""
    if (found := library()) is None:
        return "vllm-ascend is not installed"
    if (kernels := found.parent / _KERNELS).is_dir():
        known = [p for p in os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(":") if p]
        if str(kernels) not in known:
            os.environ["ASCEND_CUSTOM_OPP_PATH"] = ":".join((str(kernels), *known))
    try:
        torch.ops.load_library(found)
    except OSError as error:
        return f"vllm-ascend's library cannot be loaded: {printable(str(error))}"
    return ""


def offers(operator: str) -> Support:
    """Whether an operator of the capability table is loaded, with the schema that its kernel was written for."""
    there = getattr(torch.ops._C_ascend, operator, None)
    if there is None:
        return no("version", f"{operator}: {_absent()}")
    if (found := getattr(there, "default", None)) is None:
        return no("version", f"{operator}: vllm-ascend has overloads of it, {', '.join(there.overloads())}")
    wanted = torch._C.parse_schema(next(iter(capability.table()[operator].values())).schema)
    if said := difference(wanted, found._schema):
        return no("version", f"{operator}: {said}; its kernel was written for another vllm-ascend")
    return YES


def _absent() -> str:
    """Why an operator is not there; nothing is loaded for an answer."""
    if library() is None:
        return "vllm-ascend is not installed"
    loaded = load() if load.cache_info().currsize else "vllm-ascend is loaded when the backend starts"
    return loaded or "the installed vllm-ascend has none"


def difference(wanted: Any, found: Any) -> str:
    """What differs first between two schemas of torch's, "" where no call could tell."""
    for kind in ("arguments", "returns"):
        ours, theirs = ([_shown(a) for a in getattr(s, kind)] for s in (wanted, found))
        for our, their in zip(ours, theirs, strict=False):
            if our != their:
                return f"{kind} have `{their}` where `{our}` was expected"
        if len(ours) != len(theirs):
            more = ours[len(theirs) :] or theirs[len(ours) :]
            return f"{kind} have {'no' if len(ours) > len(theirs) else 'also'} `{', '.join(more)}`"
    return ""


def _shown(argument: Any) -> str:
    """`Tensor(a!) x`, `*, int k=1`: all of an argument that a call depends on; its default too."""
    alias = argument.alias_info
    written = "(!)" if alias is not None and alias.is_write else ""
    default = f"={argument.default_value!r}" if argument.has_default_value() else ""
    only = "*, " if argument.kwarg_only else ""
    return f"{only}{argument.type}{written} {argument.name}{default}".rstrip()
