"""A worker process of the suite: `python -m deepport.conformance.worker FD`, started by `deepport.conformance.pool`.

It answers one request after another over the inherited socket FD. A request is a JSON object whose `do` names a function of this
module; `error` in the answer is one line for a person. Whatever else a kernel does to its process, the pool notices.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

import deepport.ops  # noqa: F401  (declares the operators)
from deepport.conformance import grids, model, wire
from deepport.conformance.decisions import Decisions
from deepport.conformance.environment import installed, spec_hash
from deepport.conformance.oracle import tensors
from deepport.conformance.result import REFERENCE, CaseKey, Gate
from deepport.conformance.trial import Bench, Judge, OtherInputs, drawn
from deepport.conformance.variants import NotHere
from deepport.errors import DeepportError
from deepport.op import Operator, operators
from deepport.probing import printable

Answer = tuple[dict[str, Any], list[bytes]]

_benches: dict[tuple[str, int], Bench] = {}
_judge = Judge()
_truths: dict[str, model.ModelTruth] = {}


def _bench(message: wire.Message) -> Bench:
    where = message["backend"], message["index"]
    if where not in _benches:
        _benches[where] = Bench(*where)
    return _benches[where]


def _case(message: wire.Message) -> tuple[Operator[..., Any], CaseKey]:
    return operators[message["operator"]], CaseKey.model_validate(message["case"])


def hello(message: wire.Message, frames: list[bytes]) -> Answer:
    """Start the backend, so that a device which does not open fails the run and no case."""
    started = _bench(message).started
    told = {"threads": str(torch.get_num_threads()), "cpu capability": torch.backends.cpu.get_cpu_capability()}
    return {"kernels": installed(started.name), "environment": told}, []


def offer(message: wire.Message, frames: list[bytes]) -> Answer:
    """Which implementations take a case."""
    operator, key = _case(message)
    found = _bench(message).offer(operator, grids.find(operator, key), key.seed)
    facts = {**found.facts, "spec_hash": spec_hash(operator)}
    return {
        "implementations": found.implementations,
        "refusals": dict(found.refusals),
        "broken": dict(found.broken),
        "facts": facts,
    }, []


def perform(message: wire.Message, frames: list[bytes]) -> Answer:
    """Run one implementation: what gate G1 says, how long it took, and the outputs."""
    operator, key = _case(message)
    case = grids.find(operator, key)
    done, digest = _bench(message).perform(operator, case, key.seed, message["implementation"], message["serving"])
    heads, packed = wire.packed(done.outputs or [])
    measured = {"seconds": done.seconds, "device_seconds": done.device_seconds, "kernel_hash": digest}
    gates = [g.model_dump(mode="json") for g in done.gates]
    return {"facts": measured, "gates": gates, "tensors": heads, "judged": done.outputs is not None}, packed


def inputs(message: wire.Message, frames: list[bytes]) -> Answer:
    """The tensors that a case's outputs are computed from."""
    operator, key = _case(message)
    heads, packed = wire.packed(tensors(drawn(operator, grids.find(operator, key), key.seed)))
    return {"tensors": heads}, packed


def judge(message: wire.Message, frames: list[bytes]) -> Answer:
    """Put outputs before the gates. Where other inputs are drawn here, the answer asks for those of the device's process."""
    operator, key = _case(message)
    # A reference on the CPU is the yardstick itself; on another device it is other code, and can be measured.
    reference = message["implementation"] == REFERENCE and message["device_type"] == "cpu"
    count = len(message["tensors"])
    got = wire.unpacked(message["tensors"], frames[:count])
    given = wire.unpacked(message["inputs"], frames[count:]) if "inputs" in message else None
    try:
        found = _judge.judge(operator, key, got, reference=reference, input_hash=message["input_hash"], inputs=given)
    except OtherInputs:
        return {"other_inputs": True}, []
    gates = [g.model_dump(mode="json") for g in found.gates]
    return {"gates": gates, "nulls": found.nulls, "yardstick": found.yardstick.model_dump(mode="json")}, []


def decide(message: wire.Message, frames: list[bytes]) -> Answer:
    """Compute what is right for a whole model, and so what every other run of it is to decide."""
    case = model.find(CaseKey.model_validate(message["case"]))
    _truths[case.label] = model.truth(case)
    heads, packed = wire.packed(_truths[case.label].decisions.packed())
    return {"tensors": heads}, packed


def perform_model(message: wire.Message, frames: list[bytes]) -> Answer:
    """Run a whole model with the backend's kernels."""
    case, bench = model.find(CaseKey.model_validate(message["case"])), _bench(message)
    decisions = Decisions.unpacked(wire.unpacked(message["tensors"], frames))
    begin = time.perf_counter()
    done = model.perform(case, decisions, bench.started.name, bench.device)
    served: dict[str, int] = {}
    for row in done.served:
        served[row.implementation] = served.get(row.implementation, 0) + row.calls
    heads, packed = wire.packed(list(done.tensors.values()))
    told = {"dtype": case.dtype, "arguments": {"calls served by": served}, "seconds": time.perf_counter() - begin}
    choices = done.choices.model_dump(mode="json")
    return {
        "facts": told,
        "tensors": heads,
        "choices": choices,
        "itself": done.itself,
        "names": list(done.tensors),
    }, packed


def judge_model(message: wire.Message, frames: list[bytes]) -> Answer:
    """Put a whole model's outputs before gate G6. After `decide`, in the same process."""
    case = model.find(CaseKey.model_validate(message["case"]))
    got = wire.unpacked(message["tensors"], frames)
    named = dict(zip(message["names"], got, strict=True))
    performance = model.Performance(named, [], Gate.model_validate(message["choices"]), message["itself"])
    judged = model.judge(case, performance, _truths.pop(case.label))
    return {"gates": [g.model_dump(mode="json") for g in judged]}, []


def mutant(message: wire.Message, frames: list[bytes]) -> Answer:
    """Run a deliberately wrong implementation until a gate sees it."""
    from deepport.conformance import power

    operator = operators[message["operator"]]
    found = power.run_mutant(
        power.mutant(message["operator"], message["name"]), grids.cases(operator, message["profile"])
    )
    return {"mutant": found.model_dump(mode="json")}, []


_FUNCTIONS: dict[str, Callable[[wire.Message, list[bytes]], Answer]] = {
    "hello": hello,
    "offer": offer,
    "perform": perform,
    "inputs": inputs,
    "judge": judge,
    "decide": decide,
    "perform_model": perform_model,
    "judge_model": judge_model,
    "mutant": mutant,
}


def answer(message: wire.Message, frames: list[bytes]) -> Answer:
    try:
        return _FUNCTIONS[message["do"]](message, frames)
    except NotHere as error:
        return {"not_run": str(error)}, []
    except DeepportError as error:
        return {"error": str(error), "exit_code": error.exit_code}, []
    except NotImplementedError as error:
        return {"error": f"not implemented: {printable(str(error), 400)}", "unsupported": True}, []
    except BaseException as error:  # whatever a kernel raises, SystemExit too
        text = printable(str(error), 400)
        told = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return {"error": told, "unsupported": "not implemented for" in text}, []


def _end_with(descriptor: int) -> None:
    """End this process when the pool has gone, in whatever it is: nobody waits for an answer."""
    pool = select.poll()
    pool.register(descriptor, select.POLLRDHUP)
    pool.poll()
    os._exit(1)


def main(descriptor: int) -> None:
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    with Connection(descriptor) as pool:
        while True:
            try:
                message, frames = wire.receive(pool)
            except EOFError:  # the pool has what it wanted
                return
            wire.send(pool, *answer(message, frames))


if __name__ == "__main__":
    main(int(sys.argv[1]))
