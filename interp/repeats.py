"""Random sequences in which a segment comes twice: what heads are scored on, and in-context copying is trained on.

Repeats at one fixed distance are confounded: a head, or a whole one-layer model, that copies from that distance
whatever the token looks like an induction head on them. Here the length of the segment, where it starts and the gap
before it comes again are drawn anew for every sequence.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError, TokenError
from interp.tokenizer import Tokenizer

if TYPE_CHECKING:
    from interp.model import HookedTransformer

LENGTH = 64
SHORTEST = 5  # a segment of two tokens, twice, and one token to move them about


def random_repeats(
    words: int | Int[Tensor, "words"],
    n_prompts: int,
    length: int,
    *,
    bos: int | None = None,
    seed: int = 0,
) -> Int[Tensor, "prompt pos"]:
    """Sequences `[bos] filler, segment, filler, segment, filler` of random tokens, equally long.

    The tokens of a sequence are all different but for the segment's, which come twice. Of the L tokens beside the bos,
    the segment takes from L / 6 (at least 2) to (L - 1) / 2; two random cuts divide what is left into filler before,
    between and after the copies, where there may be none. A small vocabulary makes the shortest segments longer.

    Args:
        words: the token ids to draw from, or n for 0 to n - 1; `bos` is left out.
        n_prompts: how many sequences.
        length: of a sequence, the bos included.
        bos: what every sequence starts with, if anything.
        seed: of all random choices; equal seeds give equal sequences on any device.

    Raises:
        ConfigError: fewer than one sequence, or too short a length for a repeat that can move.
        TokenError: too few different tokens for this length.
    """
    ids = torch.arange(words) if isinstance(words, int) else words.cpu().unique()
    ids = ids[ids != bos] if bos is not None else ids
    start = [] if bos is None else [bos]
    body = length - len(start)
    if n_prompts < 1 or body < SHORTEST:
        least = SHORTEST + len(start)
        raise ConfigError(f"n_prompts = {n_prompts}, length = {length}; allowed: from 1, and from {least} tokens")
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


def repeated_tokens(
    model: "HookedTransformer", n_prompts: int = 16, length: int | None = None, seed: int = 0
) -> Int[Tensor, "prompt pos"]:
    """`random_repeats` for a model, on its device: of its tokenizer's ordinary tokens, after its bos if it has one.

    `length` None is 64, or what the context and a small vocabulary allow. Raises as `random_repeats`; `ConfigError`
    too for a length beyond the context.
    """
    words, bos = ordinary_tokens(model)
    if length is None:
        body = min(LENGTH, model.cfg.n_ctx) - (bos is not None)
        length = max(SHORTEST, min(body, 4 * len(words) // 3)) + (bos is not None)
    if length > model.cfg.n_ctx:
        raise ConfigError(f"length = {length} is longer than the context, n_ctx = {model.cfg.n_ctx}")
    return random_repeats(words, n_prompts, length, bos=bos, seed=seed).to(model.W_E.device)


def ordinary_tokens(model: "HookedTransformer") -> tuple[Int[Tensor, "words"], int | None]:
    """The ids that are neither special (bos, end of text, added tokens) nor beyond the tokenizer, and the bos."""
    codec = model.tokenizer
    if codec is None:
        return torch.arange(model.cfg.d_vocab), None
    bos = None if codec.bos is None else codec.to_single_token(codec.bos)
    special = set() if bos is None else {bos}
    if isinstance(codec, Tokenizer):
        special |= set(codec.backend.get_added_tokens_decoder())
    n = min(codec.d_vocab, model.cfg.d_vocab)
    return torch.tensor([i for i in range(n) if i not in special], dtype=torch.long), bos
