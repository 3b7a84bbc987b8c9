"""Our model as lmms-eval sees it, and how its requests become prompts, batches and answers."""
