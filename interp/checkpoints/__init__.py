"""Weights in files: one module a format."""
