"""Benchmarks: how fast operators and whole models are, beside what the device can do at most and what others do on it."""
