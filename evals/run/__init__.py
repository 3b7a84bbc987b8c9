"""Runs the cells of a matrix: processes, progress, timings and failures."""
