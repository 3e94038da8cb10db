"""What a benchmark found, as a file: versioned JSON whose schema these classes are.

`schema.json` beside this file is the JSON schema, as `python -m deepport.bench.result` prints it. It is one schema for all
backends: a device's events measure what a host's clock does.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from deepport.bench.spread import Spread

SCHEMA: Literal["deepport.bench/1"] = "deepport.bench/1"

Kind = Literal["operator", "prefill", "decode"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Cache(_Frozen):
    """One level: bytes in all that this process's cores have of it."""

    level: str
    bytes: int


class Machine(_Frozen):
    """What the figures are of.

    Attributes:
        device: its name; `processor` is the host's.
        cores: that this process may use; `threads` are those that torch computes with.
        caches: the host's, the smallest first.
        memory: bytes of the host's.
        versions: of the driver, torch, Python, the backend's instruction set, ..., as the backend's probe gives them.
    """

    device: str
    processor: str
    cores: int
    threads: int
    caches: tuple[Cache, ...]
    memory: int
    versions: dict[str, str]


class Limit(_Frozen):
    """The most that the device was seen to do of one thing, doing nothing else.

    Attributes:
        unit: `B/s`, `flop/s` or `s`.
        by: what it was measured with: a kernel for that alone, or torch.
        rate: over all probes of the run, in `unit`.
        holds: bytes up to which it is true, of a cache; 0 for memory, and for what is no memory.
    """

    name: str
    unit: Literal["B/s", "flop/s", "s"]
    by: str
    rate: Spread
    holds: int = 0


class Served(_Frozen):
    """Who computed an operator's calls, in one call or step."""

    operator: str
    implementation: str
    calls: int


class Against(_Frozen):
    """A peer's time for the same work, measured in turns with ours. `ratio`: its time over ours, pair by pair."""

    peer: str
    seconds: Spread
    ratio: Spread


class Figure(_Frozen):
    """One thing that was timed.

    Attributes:
        name: the operator, or the model.
        model: whose shapes they are.
        label: the shapes in one line.
        tokens: new tokens of one call or step; `depth`, those before them, where it matters.
        memory: `cold` where what a call streams was in no cache; `warm` where it may have been.
        flops, bytes: what a call must do at least, as the operators declare it.
        limit: the probe that sets the bound; "" where none of the run's applies.
        bound: seconds that the limit allows, at the median.
        share: bound over time, each with the probe taken in the same round; None without a limit.
        seconds: of one call, or one step.
        replayed: an operator's calls were captured and replayed, as in a decode step; else each went through the dispatcher.
    """

    kind: Kind
    name: str
    model: str
    label: str
    tokens: int
    depth: int = 0
    dtype: str
    format: str
    memory: Literal["cold", "warm"]
    served: tuple[Served, ...]
    flops: float
    bytes: float
    limit: str = ""
    bound: float | None = None
    seconds: Spread
    share: Spread | None = None
    replayed: bool = False
    against: tuple[Against, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds.median


class Peer(_Frozen):
    """Another implementation of the same model with the same weights.

    Attributes:
        difference: of its logits from ours, relative, for the median token.
        allowed: what rounding explains (`deepport.bench.peer`).
        refused: why it was not timed; "" where it was.
    """

    name: str
    version: str = ""
    settings: dict[str, str] = {}
    difference: float | None = None
    allowed: float | None = None
    refused: str = ""


class Report(_Frozen):
    """A whole run.

    Attributes:
        commit: of the repository that deepport is run from, "" where there is none.
        limits: every probe of the run.
        left_out: what was asked for and not measured, and why.
        implausible: figures beyond what the device was seen to do: something is not measured as it should be.
        stopped: `interrupted`, or "" where the run came to its end.
    """

    format: Literal["deepport.bench/1"] = SCHEMA
    deepport: str
    commit: str
    created: str
    requested: str
    backend: str
    machine: Machine
    limits: tuple[Limit, ...]
    figures: tuple[Figure, ...]
    peers: tuple[Peer, ...] = ()
    left_out: tuple[str, ...] = ()
    implausible: tuple[str, ...] = ()
    stopped: str = ""
    seconds: float


if __name__ == "__main__":
    print(json.dumps(Report.model_json_schema(), indent=2))
