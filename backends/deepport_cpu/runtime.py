"""The CPU as a runtime: the host's, and the capture of repeated work."""

from deepport.runtime import HostRuntime
from deepport_cpu.capture import capture


class CpuRuntime(HostRuntime):
    capture = staticmethod(capture)
