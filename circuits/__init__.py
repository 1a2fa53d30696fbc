"""Transformers whose weights are written by hand, and checks that they do what they were written to do."""
