"""The matrix: its schema, its methods' fields, what it resolves to, and everything that can be wrong with it."""
