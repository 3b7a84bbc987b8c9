"""Ablation studies: train variants of a method with several seeds, score them, and decide claims about them.

`run.py ablate` trains missing models, scores all models as a matrix, and writes `ablations.md` and `ablations.json`
next to the matrix's tables.
"""
