"""Planning on paper: what a model needs of a chip's memory and time, found without weights and without the chip.

Sizes are those of the model's own tensors on meta, times are operators' costs over a chip's rates. A time found here is never
more than a run's: a rate of tokens is an upper bound by model, and no performance.
"""
