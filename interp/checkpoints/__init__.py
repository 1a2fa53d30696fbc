"""Checkpoints: our own format, transformers' families (one file each), and GGUF.

`registry` holds the families and what they share; `loading` is behind `HookedTransformer.from_pretrained`.
"""
