"""Checks for methods that live outside of hidrop."""
