"""A simulator of CANN, Ascend's toolkit, so that the real torch_npu runs on a machine without an NPU (README.md)."""
