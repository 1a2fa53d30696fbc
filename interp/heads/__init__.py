"""What attention heads do: scores of their patterns on repeated text, and of their weights.

`head_scores(model)` scores every head in one pass; the pattern scores take any attention pattern.
"""

from interp.heads.pattern_scores import (
    BIDIRECTIONAL_SCORES,
    CROSS_SCORES,
    PATTERN_SCORES,
    PatternScore,
    attention_on,
    follows_earlier_occurrence,
    induction_score,
    is_duplicate,
    is_first,
    is_last,
    is_next,
    is_previous,
    is_self,
    previous_token_score,
)
from interp.heads.scores import WEIGHT_SCORES, cross_scores_of, head_scores, head_scores_of, score_table

__all__ = [
    "BIDIRECTIONAL_SCORES",
    "CROSS_SCORES",
    "PATTERN_SCORES",
    "WEIGHT_SCORES",
    "PatternScore",
    "attention_on",
    "cross_scores_of",
    "follows_earlier_occurrence",
    "head_scores",
    "head_scores_of",
    "induction_score",
    "is_duplicate",
    "is_first",
    "is_last",
    "is_next",
    "is_previous",
    "is_self",
    "previous_token_score",
    "score_table",
]
