# part of hidrop
"""The harness: matrices, tasks, runs, results, reports and benches around the core in `hidrop`.

Arrows run down only: cli -> analysis, ablations, bench -> run -> report, model -> store -> matrix -> tasks, profiling.
"""
