"""Benches: how fast methods are on this machine, and how fast they could be."""
