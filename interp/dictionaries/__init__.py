"""Sparse dictionaries: activations as sums of few of many features, read from files and spliced into runs.

    dictionary = SparseDictionary.from_pretrained(folder)                 # as SAELens writes it
    features = dictionary.encode(cache["resid_pre", 8])                   # [batch, pos, feature]
    with model.intervene(dictionary.splice({1234: 0.0})):                 # without one feature, all else as it was
        logits = model(text)

`dictionary.py` is the arithmetic and the splice, `files.py` reads the files.
"""

from interp.dictionaries.dictionary import Edited, FeatureEdit, SparseDictionary

__all__ = ["Edited", "FeatureEdit", "SparseDictionary"]
