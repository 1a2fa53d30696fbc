"""What attention heads do: scores of their patterns on repeated text, and of their weights.

`head_scores(model)` scores every head in one pass; the pattern scores take any attention pattern.
"""

from interp.heads.pattern_scores import (
    PATTERN_SCORES,
    PatternScore,
    attention_on,
    follows_earlier_occurrence,
    induction_score,
    is_duplicate,
    is_first,
    is_previous,
    previous_token_score,
)
from interp.heads.scores import WEIGHT_SCORES, head_scores, head_scores_of, score_table

__all__ = [
    "PATTERN_SCORES",
    "WEIGHT_SCORES",
    "PatternScore",
    "attention_on",
    "follows_earlier_occurrence",
    "head_scores",
    "head_scores_of",
    "induction_score",
    "is_duplicate",
    "is_first",
    "is_previous",
    "previous_token_score",
    "score_table",
]
