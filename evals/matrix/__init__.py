"""The matrix: its schema, the fields of its methods, the rows that it resolves to, and its checks."""
