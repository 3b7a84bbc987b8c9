"""Commands that time: inference, training steps, samples per second, and the cost of a matrix."""

# The schema numbers of the files of bench and of bench-train.
SCHEMA = 3
TRAINING_SCHEMA = 2
