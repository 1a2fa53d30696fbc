"""What analyses run over: pairs of prompts with their answers, and texts.

`PromptPairs` is a value: four columns, read from a file or given as lists, with a hash that is the same in every
process. `PromptPairs.tokens` gives them as a model's tokens, after it has checked all of them. `Texts` is a corpus,
which is read as a stream of rows of tokens.
"""

from interp.data.pairs import PairTokens, PromptPairs, shipped_names
from interp.data.texts import TextRow, TextRows, Texts

__all__ = ["PairTokens", "PromptPairs", "TextRow", "TextRows", "Texts", "shipped_names"]
