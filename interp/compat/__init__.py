"""Work that was written for other libraries: `transformer_lens` runs it, `migration` says what to write instead."""

__all__ = ["migration", "transformer_lens"]  # pyright: ignore[reportUnsupportedDunderAll]  # loaded when imported
