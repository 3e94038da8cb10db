"""Every kernel's faults, by family."""

from gpu.faults import attention, dense, experts, memory

MUTANTS = (*attention.MUTANTS, *dense.MUTANTS, *experts.MUTANTS, *memory.MUTANTS)
