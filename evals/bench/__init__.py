"""Benchmarks: the speed of methods on this machine, and the limits of that speed."""
