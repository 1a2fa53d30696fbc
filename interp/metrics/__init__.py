"""What a run is judged by: metrics that say which logits they need, so that no others are computed."""

from interp.metrics.keys import key_of
from interp.metrics.kinds import (
    Function,
    KLDivergence,
    Logit,
    LogitDifference,
    LogProbability,
    Metric,
    Probability,
    Rank,
    as_metric,
)
from interp.metrics.losses import Loss, MaskedTokenLoss
from interp.metrics.plan import NO_LOGITS, JudgedRun, MetricPlan, is_pooled

__all__ = [
    "NO_LOGITS",
    "Function",
    "JudgedRun",
    "KLDivergence",
    "LogProbability",
    "Logit",
    "LogitDifference",
    "Loss",
    "MaskedTokenLoss",
    "Metric",
    "MetricPlan",
    "Probability",
    "Rank",
    "as_metric",
    "is_pooled",
    "key_of",
]
