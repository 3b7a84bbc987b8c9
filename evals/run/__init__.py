"""Running the cells of a matrix: processes, progress, timings, failures."""
