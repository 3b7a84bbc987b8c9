"""Ablation studies: train variants of a method with several seeds, score them, and say which claims hold.

`run.py ablate` trains what is missing, lets the runner score it as a matrix, and writes `ablations.md` and
`ablations.json` beside the matrix's own tables.
"""
