"""The logit lens: what the residual stream says about the next token, if the model ended at a layer.

The result is an `xarray.Dataset`, as that of `direct_attribution` (`attribution.py`). The axes of the two are `layer`,
`head`, `neuron`, `component`, `prompt`, `pos` and `key_pos`, the position that was attended to. The token strings of
the positions are the coordinates `token` and `key_token`; they do not index their axis, since tokens repeat. What is
asked of one text or one sequence of ids [pos] has no axis `prompt`.
"""

import itertools
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.budget import BLOCK_BYTES, check_bytes, portions
from interp.errors import CacheError, ConfigError
from interp.indices import check_count
from interp.keywords import known_keywords
from interp.lens.over_prompts import OverPrompts, Pos
from interp.model import ActivationCache, HookedTransformer, HookName, check_one_stack, streams_of_block
from interp.precision import at_least_float32
from interp.progress import shown
from interp.results import array_of
from interp.text import Answer, AttentionMask, Ids, MaskedTokens, Text, token_ids, token_strings

if TYPE_CHECKING:
    import xarray as xr


@torch.no_grad()
@known_keywords
def logit_lens(
    model_or_cache: HookedTransformer | ActivationCache,
    prompt: Text | Ids | MaskedTokens | None = None,
    *,
    top_k: int = 5,
    answers: Answer = (),
    incl_mid: bool = False,
    pos: Pos = None,
    attention_mask: AttentionMask | None = None,
    max_bytes: int = BLOCK_BYTES,
    progress: bool = True,
) -> "xr.Dataset":
    """The stream at every layer, through the final norm (with statistics of its own) and the unembedding.

    In a masked-token model every layer's stream passes the head as well, which stands between these two. Logits are
    computed a portion at a time, and only what is asked for is kept of them.

    Args:
        model_or_cache: a model, which is run on `prompt` (its hooks act), or the cache of a run.
        prompt: text, texts, or ids [pos] or [batch, pos]; `model.masked_tokens(...)` where a run reads more than these.
            Beside a cache it is what the run of the cache read, and serves to name the tokens.
        top_k: how many of the most likely tokens to name; 0 for none.
        answers: tokens to follow through the layers, each an id or a text of one token.
        incl_mid: also read the stream between the parts of a block: before its MLP ("0_mid"), and before its
            cross-attention ("0_cross").
        pos: positions to read.
        attention_mask: for ids with padding, as for calling the model.
        max_bytes: how much the logits may take at a time (at least those of one place in the stream are computed).
        progress: show a progress bar on a terminal.

    Returns:
        Variables over `layer` ("0_pre" is the embedding, "final_post" gives the model's own logits), `prompt`, `pos`:

        - `kl`: KL(model's distribution || this layer's), in nats (Belrose et al. 2023, who read it as a depth).
        - `top_token`, `top_id`, `top_prob`, `top_logit`, over `top`: the most likely tokens, best first.
        - `logit`, `prob`, `rank`, over `answer`: of each of the answers; rank 0 is the most likely token.

        Where texts were padded, a coordinate `is_token` tells tokens from padding.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Raises:
        ConfigError: `top_k` out of range, `incl_mid` where there is no stream in the middle, a model without a prompt,
            or without an unembedding.
        TokenError: an answer out of range, unknown, or of several tokens; else as calling the model.
        HookNotFoundError: the cache lacks the stream at some layer.
        CacheError: hooks edited what the final norm or the masked-token head returned, which the stream does not show.
        ShapeError: positions out of range, or a prompt that is not the cache's.
    """
    model = model_or_cache.model if isinstance(model_or_cache, ActivationCache) else model_or_cache
    check_one_stack(model.cfg, "the logit lens")
    if not model.cfg.has_unembed:
        raise ConfigError("the logit lens reads the stream as logits, and this model has no unembedding")
    top_k = check_count("top_k", top_k, model.cfg.d_vocab_out, least=0)
    followed = token_ids(answers, model.to_answer, model.cfg.d_vocab_out, "answers").flatten().tolist()
    if isinstance(model_or_cache, ActivationCache):
        if attention_mask is not None:
            raise ConfigError("attention_mask is for running a model; the run behind a cache has had its own")
        model_or_cache.check_weights()
        over, cache = OverPrompts.of_cache(model_or_cache, prompt, pos), model_or_cache.slice(pos=pos)
    else:
        over, cache = _run(model, prompt, pos, attention_mask, incl_mid)
    stack = cache.accumulated_resid(incl_mid=incl_mid)
    _check_read_out(cache, stack.values[-1])

    streams = stack.values.flatten(1, 2)
    place = model.cfg.d_vocab_out * max(4, model.W_E.element_size())  # its logits are in float32 at least
    some = portions([place] * streams.shape[1], check_bytes(max_bytes))
    parts = [
        _read_out(model, streams[:, places_read], top_k, followed, max_bytes // place)
        for places_read in shown(some, "reading the stream", len(some), progress)
    ]
    variables = _variables(model, parts, stack.values.shape[1:3])
    coords: dict[str, Any] = {"layer": stack.labels} | ({"top": range(top_k)} if top_k else {})
    if followed:
        words = array_of(token_strings(model.output_tokenizer, followed), [len(followed)])
        coords |= {"answer": words, "answer_id": ("answer", followed)}
    return over.dataset(variables, coords, {"kl": "KL(final || layer), nats", "edited": int(cache.edited)})


def _run(
    model: HookedTransformer,
    prompt: Text | Ids | MaskedTokens | None,
    pos: Pos,
    attention_mask: AttentionMask | None,
    incl_mid: bool,
) -> tuple[OverPrompts, ActivationCache]:
    """What the lens reads, of a run on the prompt."""
    if prompt is None:
        raise ConfigError("a model needs a prompt to run: logit_lens(model, text), or logit_lens(cache)")
    streams = streams_of_block(model.cfg, incl_mid)
    prompts = model.masked_tokens(prompt, attention_mask)
    over = OverPrompts.of_prompt(model, prompt, pos, attention_mask)
    names: list[HookName] = [*(f"blocks.*.hook_{stream}" for stream in streams), ("resid_post", -1)]
    if not model.cfg.n_layers:  # the embeddings are the stream
        names = ["hook_*embed", *(["embed_ln.*"] if model.cfg.embed_norm else [])]
    # Where hooks wait past the last stream, what is there must run, so that their edits do not go unseen.
    hooked = model.read_out_is_watched()
    names += [_last_point(model)] if hooked else []
    _, cache = model.base_run_with_cache(prompts, "logits" if hooked else None, names, pos_slice=pos)
    return over, cache


def _read_out(
    model: HookedTransformer, streams: Float[Tensor, "row place d_model"], top_k: int, answers: list[int], at_once: int
) -> dict[str, Tensor]:
    """What `logit_lens` keeps, [row, place, ...] on the CPU, of some places; the last row is the model's own.

    Rows are read together as far as that makes no more than `at_once` sets of logits.
    """

    def logits_of(x: Tensor) -> Tensor:
        return at_least_float32(model.unembed(model.read_out(x.to(model.W_E.device))))

    last = logits_of(streams[-1:])
    final = last.log_softmax(dim=-1)
    groups = []
    earlier = streams[:-1].split(max(1, at_once // streams.shape[1])) if len(streams) > 1 else ()
    for logits in itertools.chain(map(logits_of, earlier), [last]):  # one reading of the last row
        log_probs = logits.log_softmax(dim=-1)
        found = {"kl": (final.exp() * (final - log_probs)).sum(dim=-1).clamp(min=0)}
        if top_k:
            found["top_logit"], found["top_id"] = logits.topk(top_k, dim=-1)
            found["top_prob"] = log_probs.gather(-1, found["top_id"]).exp()
        if answers:
            found["logit"], found["prob"] = logits[..., answers], log_probs[..., answers].exp()
            found["rank"] = torch.stack([(logits > logits[..., [i]]).sum(dim=-1) for i in answers], dim=-1)
        groups.append({name: value.cpu() for name, value in found.items()})
    return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}


def _variables(
    model: HookedTransformer, parts: list[dict[str, Tensor]], shape: torch.Size
) -> dict[str, tuple[tuple[str, ...], Any]]:
    """What was read, put together over places, which are [batch, pos] of `shape`; with the words of the top tokens."""
    variables: dict[str, tuple[tuple[str, ...], Any]] = {}
    for name in parts[0]:
        values = torch.cat([part[name] for part in parts], dim=1).unflatten(1, shape)
        last = () if name == "kl" else ("top",) if name.startswith("top") else ("answer",)
        variables[name] = ("layer", "prompt", "pos", *last), values
    if "top_id" in variables:
        dims, ids = variables["top_id"]
        words = token_strings(model.output_tokenizer, ids.flatten().tolist())
        variables["top_token"] = dims, array_of(words, ids.shape)
    return variables


def _last_point(model: HookedTransformer) -> str:
    """The point that shows what the unembedding reads, where there is one past the last stream."""
    if not model.cfg.masked_token_head:
        return "ln_final.hook_normalized"
    return "mlm_head.ln.hook_normalized" if model.mlm_head.ln.kind else "mlm_head.hook_post"


def _check_read_out(cache: ActivationCache, stream: Float[Tensor, "batch pos d_model"]) -> None:
    """Raise `CacheError` unless the unembedding read what is computed of the stream without hooks."""
    read = cache.get(_last_point(cache.model)) if cache.edited else None
    if read is None:
        return
    expected = cache.model.read_out(stream.to(cache.model.W_E.device)).to(read.device)
    if not torch.allclose(read, expected, rtol=1e-3, atol=1e-3):
        raise CacheError("hooks edited the final norm or what follows it in this run: its logits are not those of the "
                         "stream it read")  # fmt: skip
