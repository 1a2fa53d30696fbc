"""Activations of many texts on disk, and what is read off them."""

__all__: list[str] = []
