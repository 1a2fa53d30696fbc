"""Random sequences in which a segment is repeated. Heads are scored on them, and toy models are trained on them.

Repeats at one fixed distance prove little. A head that always copies from that distance, whatever token stands there,
looks like an induction head on them, and even a model of one layer can do so. Therefore three things are drawn anew for
every sequence here: the length of the segment, where it starts, and how far away it comes again.

`random_repeats` is for scoring heads: a segment comes twice, and no other token does. `variable_offset_repeats` is for
training a model: the segment comes again and again until the sequence is full.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, TokenError, describe
from interp.indices import check_count, is_index
from interp.keywords import known_keywords
from interp.text.codec import TextCodec
from interp.text.tokenizer import Tokenizer
from interp.text.tokens import AttentionMask

LENGTH = 64
"""Of a prompt that heads are scored on: long enough for repeats at many distances, short enough for the patterns of all
heads to be small."""

SHORTEST = 5
"""Of a sequence without its bos: a segment of two tokens, twice, and one token to move the two copies about."""


def random_repeats(
    words: int | Int[Tensor, "words"],
    n_prompts: int,
    length: int,
    *,
    bos: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "prompt pos"]:
    """Sequences `[bos] filler, segment, filler, segment, filler` of random tokens, all of one length.

    The tokens of the segment come twice in a sequence, and every other token comes once. Let L be the number of tokens
    without the bos. The length of the segment is random. It is at least L / 6 and at least 2, since shorter segments
    repeat too little to score, and at most (L - 1) / 2, which leaves one token to move the copies about. What is left
    over is filler, which two random cuts divide into the parts before, between and after the two copies; a part may be
    empty. Where there are too few different tokens for the shortest segments, these are longer.

    Args:
        words: the token ids to draw from, or n for 0 to n - 1; `bos` is left out.
        n_prompts: how many sequences.
        length: the length of a sequence, the bos included.
        bos: the id that every sequence starts with, or None.
        seed: of all random choices. Equal seeds give equal sequences on any device.

    Raises:
        ConfigError: fewer than one sequence, or a length that is too short for a repeat that can move.
        TokenError: too few different tokens for this length.
    """
    ids = torch.arange(words) if isinstance(words, int) else words.cpu().unique()
    ids = ids[ids != bos] if bos is not None else ids
    start = [] if bos is None else [bos]
    body = length - len(start)
    n_prompts = check_count("n_prompts", n_prompts)
    if not is_index(length) or body < SHORTEST:
        raise ConfigError(f"length = {describe(length)}; allowed: {SHORTEST + len(start)} tokens or more")
    longest = (body - 1) // 2
    if len(ids) < body - longest:
        raise TokenError(
            f"a sequence of {length} tokens with one repeat needs {body - longest} different ones, and there are "
            f"{len(ids)} to draw from (special tokens are not used); shorter ones need fewer, but at least 3"
        )
    shortest = max(2, body // 6, body - len(ids))
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    rows = []
    for _ in range(n_prompts):
        segment = shortest + below(longest - shortest + 1)
        loose = body - 2 * segment
        offset, second = sorted((below(loose + 1), below(loose + 1)))
        drawn = ids[torch.randperm(len(ids), generator=generator)[: body - segment]].tolist()
        copied = drawn[offset : offset + segment]
        second += segment
        rows.append([*start, *drawn[:second], *copied, *drawn[second:]])
    return torch.tensor(rows)


@known_keywords
def repeated_tokens(
    cfg: TransformerConfig,
    tokenizer: TextCodec | None = None,
    n_prompts: int = 16,
    length: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "prompt pos"]:
    """`random_repeats` of the ordinary tokens of a model, each sequence after the model's bos if it has one.

    Args:
        cfg, tokenizer: those of the model: `repeated_tokens(model.cfg, model.tokenizer)`.
        n_prompts: how many sequences.
        length: the length of a sequence, the bos included. None stands for 64, or for less where the context is shorter
            or the vocabulary too small for a sequence of that length.
        seed: of all random choices.

    The ids are on the CPU. Raises as `random_repeats` does, and `ConfigError` for a length beyond the context.
    """
    words, bos = ordinary_tokens(tokenizer, cfg.d_vocab)
    if length is None:
        body = min(LENGTH, cfg.n_ctx) - (bos is not None)
        length = max(SHORTEST, min(body, 4 * len(words) // 3)) + (bos is not None)
    if length > cfg.n_ctx:
        raise ConfigError(f"length = {length} is longer than the context, n_ctx = {cfg.n_ctx}")
    return random_repeats(words, n_prompts, length, bos=bos, seed=seed)


def ordinary_tokens(tokenizer: TextCodec | None, d_vocab: int) -> tuple[Int[Tensor, "words"], int | None]:
    """The ids below `d_vocab` that stand for ordinary tokens of a text, and the id of the bos (None without one).

    Special tokens (the bos, the end of a text, tokens that were added to the vocabulary) are left out, and so are ids
    that the tokenizer does not have. Without a tokenizer every id is ordinary.
    """
    if tokenizer is None:
        return torch.arange(d_vocab), None
    bos = tokenizer.bos_id
    special = set() if bos is None else {bos}
    if isinstance(tokenizer, Tokenizer):
        special |= set(tokenizer.backend.get_added_tokens_decoder())
    n = min(tokenizer.d_vocab, d_vocab)
    ordinary = [i for i in range(n) if i not in special and tokenizer.has_token(i)]
    return torch.tensor(ordinary, dtype=torch.long), bos


# ---------------------------------------------------------------------- to train on

Seed = int | torch.Generator
"""A seed, or a generator that goes on from where it is."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences to train on, and what is to be predicted in them.

    Without labels every token is to be predicted from those before it. A mark then belongs to the token that is to be
    predicted; with labels it belongs to the label at its place.

    Attributes:
        tokens: token ids.
        copied: true at a token that repeats what followed an earlier occurrence of the token before it. The loss of
            these tokens is recorded apart. Without it no token counts as copied.
        labels: what the logits at each position are to say, in place of the next token; or one id a sequence, which
            the logits at its last position are to say.
        loss_mask: true where the loss counts; None for everywhere. Where it is false, a label may be any number.
        attention_mask: true for tokens and false for padding, which predicts nothing and is not predicted.
    """

    tokens: Int[Tensor, "batch pos"]
    copied: Bool[Tensor, "batch pos"] = None  # pyright: ignore[reportAssignmentType]  # filled in below
    labels: Int[Tensor, "batch pos"] | Int[Tensor, "batch"] | None = None
    loss_mask: AttentionMask | None = None
    attention_mask: AttentionMask | None = None

    def __post_init__(self) -> None:
        if self.copied is None:
            object.__setattr__(self, "copied", torch.zeros_like(self.tokens, dtype=torch.bool))


def iid_tokens(batch: int, n_pos: int, vocabulary: int | range, *, bos: int | None = None, seed: Seed) -> Batch:
    """Tokens that are drawn independently and evenly, after the bos. They are a control: there is nothing to learn.

    Args:
        batch, n_pos: the shape of the tokens, bos included.
        vocabulary: the ids to draw from; an integer stands for all ids below it.
        bos: the id that starts every sequence, or None for none; not one of those drawn.
        seed: of this batch, or a generator.

    Raises `ConfigError` for sizes that are not positive, fewer than two ids, or a bos among them.
    """
    ids = range(vocabulary) if isinstance(vocabulary, int) else vocabulary
    check_count("batch", batch)
    check_count("n_pos", n_pos, least=1 if bos is None else 2)
    if len(ids) < 2 or ids[0] < 0 or ids[-1] < 0:
        raise ConfigError(f"vocabulary = {vocabulary}; at least two ids are needed, none below 0")
    if bos is not None and (bos < 0 or bos in ids):
        raise ConfigError(f"bos = {bos}; it must be an id of its own, not one of vocabulary = {vocabulary}")
    tokens = _draw(ids, (batch, n_pos), _generator(seed))
    if bos is not None:
        tokens[:, 0] = bos
    return Batch(tokens, torch.zeros_like(tokens, dtype=torch.bool))


@known_keywords
def variable_offset_repeats(
    batch: int,
    n_pos: int,
    vocabulary: int | range,
    *,
    segment: tuple[int, int] = (8, 14),
    gap: tuple[int, int] = (0, 12),
    bos: int | None = None,
    seed: Seed,
) -> Batch:
    """Random tokens in which one random segment is repeated, at distances that cannot be predicted.

    A sequence is `gap segment gap segment ...`, cut off at `n_pos`. The segment is the same each time. Every gap has a
    random length of its own and holds other random tokens. To copy from one fixed distance is therefore of little use
    here, though it passes for induction where repeats lie equally far apart.

    Args:
        batch, n_pos, vocabulary, bos, seed: as for `iid_tokens`; segments and gaps draw from the same ids.
        segment: shortest and longest length of a segment, in tokens; at least 2, as the first cannot be predicted.
        gap: shortest and longest length of a gap, the one before the first segment included. With the defaults copies
            lie 8 to 26 positions apart, so that no distance is worth learning, and 64 positions hold two at least.

    Raises `ConfigError` as `iid_tokens`, for lengths that cannot be, and where two segments might not fit.
    """
    body = n_pos - (bos is not None)
    for name, (least, most), lowest in (("segment", segment, 2), ("gap", gap, 0)):
        if not lowest <= least <= most:
            raise ConfigError(f"{name} = {(least, most)}; allowed: the shortest and the longest, {lowest} or more")
    if body < (needed := 2 * (segment[1] + gap[1])):
        raise ConfigError(
            f"{body} positions for segments of up to {segment[1]} tokens and gaps of up to {gap[1]}; two of each need "
            f"{needed}"
        )
    generator = _generator(seed)
    tokens = iid_tokens(batch, n_pos, vocabulary, bos=bos, seed=generator).tokens
    words = iid_tokens(batch, segment[1], vocabulary, seed=generator).tokens
    length = _draw(range(segment[0], segment[1] + 1), (batch, 1), generator)
    gaps = _draw(range(gap[0], gap[1] + 1), (batch, body // segment[0] + 1), generator)
    starts = (gaps + length).cumsum(dim=1) - length  # [batch occurrence]
    at = torch.arange(body).expand(batch, -1).contiguous()
    occurrence = torch.searchsorted(starts, at, right=True) - 1  # -1 in the gap before the first
    within = at - starts.gather(1, occurrence.clamp(min=0))
    inside = (occurrence >= 0) & (within < length)
    after_bos = tokens[:, n_pos - body :]
    after_bos[inside] = words.gather(1, within.clamp(0, segment[1] - 1))[inside]
    copied = torch.zeros_like(tokens, dtype=torch.bool)
    copied[:, n_pos - body :] = inside & (occurrence >= 1) & (within >= 1)
    return Batch(tokens, copied)


def _draw(ids: range, shape: tuple[int, int], generator: torch.Generator) -> Int[Tensor, "rows columns"]:
    return ids.start + ids.step * torch.randint(len(ids), shape, generator=generator)


def _generator(seed: Seed) -> torch.Generator:
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
