"""The conformance suite: what a backend really does, in a form that people can trust.

`deepport conform --device D` runs it; a backend's own repository runs it with `pytest --deepport-device=D` and
`from deepport.conformance.plugin import *` in a test file.

A case goes through three hands. `execute` runs one implementation between guards, in a worker process. `oracle` and `judge`
compute what is right, and what the reference's own error is, in another process, and put the outputs before the `gates`.
`pool` keeps both kinds of processes, and outlives them: a kernel that crashes or hangs costs its own case. What came out is a
`result.Report`.
"""
