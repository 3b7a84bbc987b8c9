"""Training of the embedded models: their recipes, the data that is drawn for them, and the loop."""
