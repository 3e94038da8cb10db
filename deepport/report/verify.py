"""Whether a report file is whole, and whether the kernels that it judged are the ones installed here.

Equal hashes show that nothing changed by accident. They are no signature: whoever writes a report can write its hashes, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from deepport.conformance.result import MODEL, KernelInfo, Report
from deepport.errors import DeepportError
from deepport.report.words import count

Installed = Callable[[str], Mapping[str, str]]
"""Of a backend by name: the hashes of its kernels, by `operator:backend/kernel`. DeepportError where it is not installed."""


@dataclass(frozen=True)
class Finding:
    """`unknown`: it could not be found out here."""

    state: Literal["ok", "WRONG", "unknown"]
    text: str


def verify(report: Report, installed: Installed) -> list[Finding]:
    """What was checked, and what came of it: the digest, the record's own hashes, the kernels that are installed."""
    return [_digest(report), *_record(report), *_kernels(report, installed)]


def _digest(report: Report) -> Finding:
    if not report.digest:
        return Finding("WRONG", f"the report was never finished: {report.stopped or 'it has no digest'}")
    if not report.whole:
        return Finding("WRONG", "the report was changed after the run: its digest is not that of its content")
    return Finding("ok", f"the report is as it was written ({report.digest})")


def _record(report: Report) -> Iterator[Finding]:
    """Every result by a kernel names the hash that the report lists; a kernel that never answered has none."""
    listed = {_name(report, k): k.hash for k in report.kernels}
    judged = {
        f"{r.operator}:{r.implementation}": r.kernel_hash
        for r in report.results
        if r.by_kernel and r.case.grid != MODEL and r.kernel_hash
    }
    wrong = [name for name, hash in judged.items() if listed.get(name) != hash]
    for name in wrong:
        yield Finding("WRONG", f"{name}: its results do not have the hash that the report lists for it")
    if judged and not wrong:
        yield Finding("ok", f"results of {count(len(judged), 'kernel')} have the hashes that the report lists")


def _kernels(report: Report, installed: Installed) -> Iterator[Finding]:
    try:
        here = installed(report.backend)
    except DeepportError as error:
        yield Finding("unknown", f"{count(len(report.kernels), 'kernel')} could not be compared: {error}")
        return
    listed = {_name(report, k): k.hash for k in report.kernels}
    same = 0
    for name, hash in listed.items():
        if name not in here:
            yield Finding("WRONG", f"{name}: was judged, and is not installed here")
        elif not hash or not here[name]:
            yield Finding("unknown", f"{name}: has no file to compare")
        elif here[name] != hash:
            yield Finding("WRONG", f"{name}: is other code here: {here[name]}, and {hash} was judged")
        else:
            same += 1
    for name in sorted(here.keys() - listed.keys()):
        if not report.operators or name.split(":")[0] in report.operators:
            yield Finding("WRONG", f"{name}: is installed here, and was not judged")
    if same or not listed:
        yield Finding("ok", f"{count(same, 'kernel')} of {report.backend} installed here: the code that was judged")


def _name(report: Report, kernel: KernelInfo) -> str:
    """`operator:backend/kernel`."""
    return f"{kernel.operator}:{kernel.name if '/' in kernel.name else f'{report.backend}/{kernel.name}'}"
