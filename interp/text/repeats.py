"""Random sequences in which a segment comes twice, and no other token does. Heads are scored on them.

Repeats at one fixed distance prove little. A head that always copies from that distance, whatever token stands there,
looks like an induction head on them, and even a model of one layer can do so. Therefore three things are drawn anew for
every sequence here: the length of the segment, where it starts, and how far away it comes again.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from interp.config import TransformerConfig
from interp.errors import ConfigError, TokenError, describe
from interp.indices import check_count, is_index
from interp.keywords import known_keywords
from interp.text.codec import TextCodec
from interp.text.ids import as_ids
from interp.text.tokenizer import Tokenizer

Words = int | range | Int[Tensor, "words"]
"""The token ids that random tokens are drawn from; an integer n stands for 0 to n - 1."""

LENGTH = 64
"""Of a prompt that heads are scored on: long enough for repeats at many distances, short enough for the patterns of all
heads to be small."""

SHORTEST = 5
"""Of a sequence without its bos: a segment of two tokens, twice, and one token to move the two copies about."""


def random_repeats(
    words: Words,
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
        words: the token ids to draw from (see `Words`); `bos` is left out.
        n_prompts: how many sequences.
        length: the length of a sequence, the bos included.
        bos: the id that every sequence starts with, or None.
        seed: of all random choices. Equal seeds give equal sequences on any device.

    Raises:
        ConfigError: fewer than one sequence, or a length that is too short for a repeat that can move.
        TokenError: too few different tokens for this length; else as `word_ids`.

    >>> tokens = random_repeats(torch.arange(50), 2, 12, bos=0)
    >>> tokens.shape, tokens[:, 0].tolist(), len(tokens[0].unique()) < 12
    (torch.Size([2, 12]), [0, 0], True)
    """
    ids = word_ids(words, bos)
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


def word_ids(words: Words, bos: int | None = None) -> Int[Tensor, "word"]:
    """The different ids that `words` means, on the CPU and in ascending order, without the bos.

    Raises `ConfigError` for a number of words that is not positive and for a negative bos, `TokenError` for ids that
    are none.

    >>> word_ids([5, 3, 5, 0], bos=0)
    tensor([3, 5])
    """
    ids = torch.arange(check_count("words", words)) if is_index(words) else as_ids(words, "words").cpu().unique()
    if len(ids) and ids[0] < 0:
        raise TokenError(f"words: {int(ids[0])} is no token id; allowed: 0 or more")
    return ids if bos is None else ids[ids != check_count("bos", bos, least=0)]


@known_keywords
def repeated_tokens(
    cfg: TransformerConfig,
    tokenizer: TextCodec | None = None,
    n_prompts: int = 16,
    length: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "prompt pos"]:
    """`random_repeats` of the ordinary tokens of a model, each sequence after the model's bos if it has one.

    Where the tokenizer also puts tokens behind a text, as an encoder's puts [SEP], each sequence ends with them.

    Args:
        cfg, tokenizer: those of the model: `repeated_tokens(model.cfg, model.tokenizer)`.
        n_prompts: how many sequences.
        length: the length of a sequence, with the bos and what stands behind the text. None stands for 64, or for less
            where the context is shorter or the vocabulary too small for a sequence of that length.
        seed: of all random choices.

    The ids are on the CPU. Raises as `random_repeats` does, and `ConfigError` for a length beyond the context.
    """
    words, bos = ordinary_tokens(tokenizer, cfg.d_vocab)
    behind = tokenizer.behind_text if isinstance(tokenizer, Tokenizer) else []
    added = (bos is not None) + len(behind)
    if length is None:
        body = min(LENGTH, cfg.n_ctx) - added
        length = max(SHORTEST, min(body, 4 * len(words) // 3)) + added
    if not is_index(length) or length < SHORTEST + added:
        raise ConfigError(f"length = {describe(length)}; allowed: {SHORTEST + added} tokens or more")
    if length > cfg.n_ctx:
        raise ConfigError(f"length = {length} is longer than the context, n_ctx = {cfg.n_ctx}")
    repeats = random_repeats(words, n_prompts, length - len(behind), bos=bos, seed=seed)
    return torch.cat([repeats, torch.tensor(behind, dtype=torch.long).expand(len(repeats), -1)], dim=1)


def ordinary_tokens(tokenizer: TextCodec | None, d_vocab: int) -> tuple[Int[Tensor, "words"], int | None]:
    """The ids below `d_vocab` that stand for ordinary tokens of a text, and the id of the bos (None without one).

    Special tokens (the bos, the end of a text, tokens that were added to the vocabulary) are left out, and so are ids
    that the tokenizer does not have. Without a tokenizer every id is ordinary.

    >>> ids, bos = ordinary_tokens(words, cfg.d_vocab)
    >>> len(ids) == cfg.d_vocab, bos
    (True, None)
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
