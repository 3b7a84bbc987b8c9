"""LLaVA's original layout: one LLaMA config with `mm_*` keys, tensors under names of their own."""
