"""From a model to its schedule: probes of the unreduced model, curves, and the rules that read them.

walk.py goes through the decoder once and lets other ways branch off; probes.py and sweeps.py are what is measured on
the way; curves.py holds the numbers, a row for each sample; rules.py and suggest.py turn them into a schedule.
"""
