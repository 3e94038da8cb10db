"""The kernels compiled ahead of time, for chips that need not be here: evidence E3, "compiled for".

A model's steps are traced on tensors without data (`trace`), the launches that its kernels would make become jobs (`job`),
and each job is compiled for each target in another process (`run`, `worker`). What the code then needs of a chip is read from the
code itself (`code`) and held against the chip's limits (`target`) and against what it was before (`baseline`).

What Ascend's compiler is given can also be executed on this processor (`execute`): evidence E4.
"""
