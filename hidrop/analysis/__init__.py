"""From a model to its schedule: probes of the unreduced model, curves, and the rules that read them.

walk.py runs a batch through the decoder once, with branches at every layer. probes.py and sweeps.py measure on the
way. curves.py holds the numbers, one row per sample. rules.py and suggest.py turn them into a schedule.
"""
