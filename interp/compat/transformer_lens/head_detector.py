"""`transformer_lens.head_detector`: how well each head's attention fits an expected pattern."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.utils import is_lower_triangular, is_square
from interp.heads import follows_earlier_occurrence, is_duplicate, is_previous

HeadName = Literal["previous_token_head", "duplicate_token_head", "induction_head"]
HEAD_NAMES: list[str] = list(get_args(HeadName))
ErrorMeasure = Literal["abs", "mul"]
LayerHeadTuple = tuple[int, int]
LayerToHead = dict[int, list[int]]
INVALID_HEAD_NAME_ERR = f"detection_pattern must be a Tensor or one of head names: {HEAD_NAMES}; got %s"
DET_PAT_NOT_SQUARE_ERR = (
    "The detection pattern must be a lower triangular matrix of shape (sequence_length, sequence_length); "
    "sequence_length=%d; got detection patern of shape %s"
)
SEQ_LEN_ERR = "The sequence must be non-empty and must fit within the model's context window."


def _pattern(
    marked: Callable[[Int[Tensor, "pos"]], Bool[Tensor, "pos pos"]],
) -> Callable[[Int[Tensor, "1 pos"]], Float[Tensor, "pos pos"]]:
    """1 where a head of this kind looks, [query, key], for tokens [1, pos]."""
    return lambda tokens: marked(tokens.flatten()).float()


get_previous_token_head_detection_pattern = _pattern(is_previous)
get_duplicate_token_head_detection_pattern = _pattern(is_duplicate)
get_induction_head_detection_pattern = _pattern(follows_earlier_occurrence)
_PATTERNS = dict(zip(HEAD_NAMES, (get_previous_token_head_detection_pattern, get_duplicate_token_head_detection_pattern,
                                  get_induction_head_detection_pattern), strict=True))  # fmt: skip


def get_supported_heads() -> None:
    """Print the names of kinds of heads."""
    print(f"Supported heads: {HEAD_NAMES}")


def detect_head(
    model: Any,
    seq: str | list[str],
    detection_pattern: Tensor | str,
    heads: list[LayerHeadTuple] | LayerToHead | None = None,
    cache: Any = None,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: ErrorMeasure = "mul",
) -> Float[Tensor, "layer head"]:
    """A score for every head, -1 for those not asked for; of several texts and a named kind the mean over texts.

    `detection_pattern` is lower triangular, [pos, pos], or a name; `cache` that of the text without a batch axis. All
    options hold for each of several texts (TransformerLens 2.16 forgets them there), and the cache stays as it is.
    Raises `LensError` for what does not fit. See `compute_head_attention_similarity_score`.
    """
    cfg, measures = model.cfg, get_args(ErrorMeasure)
    ensure(error_measure in measures, f"Invalid error_measure={error_measure}; valid values are {measures}")
    options = {"exclude_bos": exclude_bos, "exclude_current_token": exclude_current_token,
               "error_measure": error_measure}  # fmt: skip
    if isinstance(detection_pattern, str):
        ensure(detection_pattern in HEAD_NAMES, INVALID_HEAD_NAME_ERR % detection_pattern)
        if isinstance(seq, list):
            ensure(cache is None, "a cache is of one text, and seq is a list")
            return torch.stack([detect_head(model, one, detection_pattern, heads, **options) for one in seq]).mean(0)
    tokens = model.to_tokens(seq)
    n = tokens.shape[-1]
    ensure(1 < n < cfg.n_ctx, SEQ_LEN_ERR)
    expected = _PATTERNS[detection_pattern](tokens) if isinstance(detection_pattern, str) else detection_pattern
    if error_measure == "mul" and not ((expected == 0) | (expected == 1)).all():
        warnings.warn("a detection pattern with values other than 0 or 1 beside error_measure 'mul'", stacklevel=2)
    ensure(is_lower_triangular(expected) and n == len(expected), DET_PAT_NOT_SQUARE_ERR % (n, expected.shape))
    cache = model.run_with_cache(tokens, remove_batch_dim=True)[1] if cache is None else cache
    heads = {layer: list(range(cfg.n_heads)) for layer in range(cfg.n_layers)} if heads is None else heads
    pairs = heads if isinstance(heads, list) else [(layer, head) for layer, some in heads.items() for head in some]
    scores = -torch.ones(cfg.n_layers, cfg.n_heads, dtype=cfg.dtype)
    for layer, head in pairs:
        pattern = cache["pattern", layer, "attn"][head]
        scores[layer, head] = compute_head_attention_similarity_score(pattern, expected.to(pattern.device), **options)
    return scores


def compute_head_attention_similarity_score(
    attention_pattern: Float[Tensor, "query_pos key_pos"],
    detection_pattern: Float[Tensor, "query_pos key_pos"],
    *,
    exclude_bos: bool,
    exclude_current_token: bool,
    error_measure: ErrorMeasure,
) -> float:
    """How well one head's pattern fits the expected one, without attention to the first token or to the query's own.

    "mul" is the share of its attention on entries that are 1 in the expected pattern, "abs" is 1 minus the sum of the
    absolute differences per query, rounded to three digits.
    """
    ensure(is_square(attention_pattern), f"Attention pattern is not square; got shape {attention_pattern.shape}")
    counted = torch.ones_like(attention_pattern)
    if exclude_bos:
        counted[:, 0] = 0
    if exclude_current_token:
        counted.fill_diagonal_(0)
    if error_measure == "mul":
        pattern = attention_pattern * counted
        return ((pattern * detection_pattern).sum() / pattern.sum()).item()
    difference = (attention_pattern - detection_pattern).abs()
    ensure(is_lower_triangular(difference), "attention to later positions fits no lower triangular pattern")
    return 1 - round(((difference * counted).mean() * len(difference)).item(), 3)
