"""The model class for lmms-eval, and how requests become prompts, batches and answers."""
