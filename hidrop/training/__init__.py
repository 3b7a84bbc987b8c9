"""LLaVA's two stages on real data, with a method at work: transformers' Trainer around the runtime of evaluation."""
