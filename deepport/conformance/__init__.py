"""The conformance suite: what a backend really does, in a form that people can trust.

`deepport conform --device D` runs it. A backend's own repository runs it in its own CI: a test file with one line,

    from deepport.conformance.suite import *  # noqa: F403

and `pytest --deepport-device=D`, in as many processes as `-n` says where pytest-xdist is installed. Each case is a test, such as
`linear[v4-flash-...]`; it fails with the gate, the value, the bound and the line of `deepport repro` that runs it again.

| option | |
|---|---|
| `--deepport-profile` | bring-up, inference (the default) or training |
| `--deepport-operator NAME` | only this operator; may be given several times |
| `--deepport-mutants` | a test for each deliberately wrong implementation, which passes where a gate sees it |
| `--deepport-timeout SECONDS` | of a case |
| `--deepport-report FILE` | the record, as of `deepport conform --json`; else it is in pytest's cache |

What the backend cannot do yet it declares itself, as `gaps` beside its `name` (`deepport.gap`): such a case is expected to fail,
and a gap that is closed, past its date, or matches nothing fails the run. What a machine cannot run, for want of memory, is
skipped with the reason. A session that executes no case fails, unless its own options left all of them out.

A case goes through three hands. `execute` runs one implementation between guards, in a worker process. `oracle` and `judge`
compute what is right, and what the reference's own error is, in another process, and put the outputs before the `gates`.
`pool` keeps both kinds of processes, and outlives them: a kernel that crashes or hangs costs its own case. What came out is a
`result.Report`.
"""
