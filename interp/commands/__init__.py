"""What the `interp` command does with a model: a module each; `cli.py` puts them together."""
