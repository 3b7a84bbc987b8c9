"""Training of the embedded models: recipes, generated data, and the training loop."""
