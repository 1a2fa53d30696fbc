"""The commands of `interp`, a module each, and what they share in `common`; `cli.py` puts them together."""
