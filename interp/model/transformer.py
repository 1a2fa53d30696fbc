"""The transformer, read from top to bottom.

A sequence of tokens becomes a *residual stream*: one vector of width d_model for every position. Each block reads the
stream and adds to it, first its attention heads (which move information between positions), then its MLP (which works
on each position alone). At the end the stream is read out as logits for the next token. With norms left aside:

    x = W_E[tokens] + W_pos[positions]
    for block in blocks:
        x = x + attention(x)
        x = x + mlp(x)
    logits = x @ W_U

A decoder of a pair (`encoder_decoder.py`) also attends to a *memory*, the last stream of an encoder, between the two.

This file holds the model around the blocks. Read `block.py` next, then `attention.py`, `components.py` and `norms.py`.
Every place where the stream is read or written, and every step in between, is a hook point; `model.hook_map()` lists
them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.errors import ConfigError, TokenError
from interp.keywords import known_keywords
from interp.model.block import Block
from interp.model.components import Embed, MaskedTokenHead, PosEmbed, RelativeBias, TokenTypeEmbed, Unembed
from interp.model.context import LayerContext, layer_contexts
from interp.model.generate import Generates
from interp.model.hooked import Hooked
from interp.model.hooks import HookPoint, Span
from interp.model.kv_cache import KVCache
from interp.model.loss import next_token_loss
from interp.model.norms import Norm
from interp.model.options import ReadOut, ReturnType, check_run, check_stream
from interp.model.pooling import Pooler
from interp.model.saved import Saved
from interp.model.stacked import StackedWeights
from interp.model.text import ReadsText
from interp.text import AttentionMask, Ids, MaskedTokens, Memory, Text, check_mask, check_memory, check_tokens


class HookedTransformer(StackedWeights, Hooked, ReadsText, Generates, Saved):
    """A transformer with a hook point at every step.

        cfg = TransformerConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=16, d_vocab=3, seed=0)
        model = HookedTransformer(cfg, Vocabulary(["a", "b", "c"]))
        logits, cache = model.run_with_cache("abca")
        pattern = cache["pattern", 1][0, 2]  # [query_pos, key_pos] of layer 1, head 2

    | to | there are |
    |---|---|
    | get a model, and keep it | `from_pretrained`, `save_pretrained`, `save_snapshot`, `weights_hash` |
    | run it | `model(text)`, which is `forward`; `generate`, `stream` |
    | see inside | `run_with_cache`; `hook_map` lists what can be seen |
    | change a run | `intervene`, `run_with_hooks`, `hooks`; `add_hook` until `reset_hooks` |
    | go between text and ids | `to_tokens`, `to_str_tokens`, `to_string`, `to_single_token`, `get_token_position` |
    | read the weights of all layers | `W_Q`, `W_K`, `W_V`, `W_O`, `W_in`, `W_out`, `b_Q` ...; `QK`, `OV` |
    | read or write those of one | `embed.W_E`, `blocks[1].attn.W_O`, `blocks[1].mlp.W_in`, `unembed.W_U` |

    A subclass may say in `block_type` which class its blocks have, and their parts. It is by these that a model
    computes something else. What a subclass makes of `forward`, `run_with_cache`, `run_with_hooks` and `generate`
    concerns its callers: cached runs, sweeps, metrics and all other analyses go past it, to the methods that are here
    (`base_run`). With `base_forward = forward` in the class they run its own `forward`, which must take and return what
    this one does; a class with a `forward` that says neither is warned of.

    Args:
        cfg: the architecture, or its fields as a dictionary.
        tokenizer: what turns text into token ids, if the model should take text: a `Vocabulary`, a `Tokenizer` or
            another `TextCodec`, or a fast tokenizer of transformers.
        device: where the parameters live; "meta" allocates nothing.
        init_weights: False leaves the weights uninitialised, for a caller who fills them.
        embed: an embedding of another model whose `W_E` this one uses instead of a parameter of its own.

    Raises:
        ConfigError: the vocabulary has more words than `cfg.d_vocab`, `cfg` is no config, or `embed` is of other sizes.
        TokenError: `tokenizer` is none.
    """

    block_type: ClassVar[type[Block]] = Block

    @known_keywords
    def __init__(
        self,
        cfg: TransformerConfig | Mapping[str, Any],
        tokenizer: Any = None,
        device: str | torch.device | None = None,
        init_weights: bool = True,
        embed: Embed | None = None,
    ):
        super().__init__()
        cfg = cfg if isinstance(cfg, TransformerConfig) else TransformerConfig.from_dict(cfg)
        self.cfg, self.tokenizer = cfg, tokenizer
        with torch.device(device or torch.get_default_device()):
            self.hook_tokens = HookPoint("batch pos", "the token ids, as the embedding reads them", lazy=True)
            self.embed = Embed(cfg, shared=embed)
            self.hook_embed = HookPoint("batch pos d_model", "the token's vector: the first write to the stream")
            if cfg.has_position_vectors:
                self.pos_embed = PosEmbed(cfg)
                shown_to = "queries and keys only" if cfg.positional_embedding_type == "shortformer" else "the stream"
                self.hook_pos_embed = HookPoint("batch pos d_model", f"the position's vector, added to {shown_to}")
            if cfg.n_token_types:
                self.token_type_embed = TokenTypeEmbed(cfg)
                self.hook_token_type_embed = HookPoint("batch pos d_model", "the vector of the token's type")
            if cfg.positional_embedding_type == "relative":
                self.rel_bias = RelativeBias(cfg)
            if cfg.embed_norm:
                self.embed_ln = Norm(cfg.normalization_type, cfg.d_model, cfg.eps)
            self.blocks = cast(Sequence[Block], nn.ModuleList(self.block_type(cfg, i) for i in range(cfg.n_layers)))
            # In a post-norm model the last block has already normalised the stream.
            self.ln_final = Norm(cfg.normalization_type if cfg.norms_reads else None, cfg.d_model, cfg.eps)
            if cfg.masked_token_head:
                self.mlm_head = MaskedTokenHead(cfg)
            if cfg.has_unembed:
                self.unembed = Unembed(cfg, self.embed)
            if cfg.pooling is not None:
                self.pooler = Pooler(cfg)
        self.to(cfg.dtype)
        if init_weights:
            self._init_weights()
        sizes = {
            "d_model": cfg.d_model,
            "head": cfg.n_heads,
            "kv_head": cfg.n_key_value_heads,
            "d_head": cfg.d_head,
            "d_mlp": cfg.d_mlp,
        }
        self.name_hook_points(sizes)

    @known_keywords
    def forward(
        self,
        input: Text | Ids | MaskedTokens,
        return_type: ReturnType | ReadOut = "logits",
        loss_per_token: bool = False,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        attention_mask: AttentionMask | None = None,
        kv_cache: KVCache | None = None,
        token_types: Ids | None = None,
        memory: Memory | Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Run the model, or the blocks from `start_at_layer` up to but not including `stop_at_layer`.

        Args:
            input: text, or several (padded on the left and masked where their lengths differ); token ids [batch, pos]
                or [pos], as a tensor, an array or lists; with `start_at_layer` the residual stream
                [batch, pos, d_model] that enters that block.
            return_type: "logits" [batch, pos, d_vocab_out]; "loss", the mean cross-entropy in nats over all next tokens
                of the batch (`interp.metrics.Loss` is the mean of each prompt); "both" as (logits, loss); "pooled"
                [batch, d_model], the vector of each whole sequence, and "classes" [batch, class], the logits on it,
                where the config says how (`pooling`); None. Losses are in float32 at least, whatever the model's dtype.
            loss_per_token: a loss for every predicted token, [batch, pos - 1]; 0 where it or its predictor is padding.
            start_at_layer, stop_at_layer: 0 to n_layers, or negative from the end. With `stop_at_layer` the result is
                the stream that would enter that block (after all blocks: the one the final norm reads).
            attention_mask: [batch, pos], true or 1 for tokens and false or 0 for padding, of any type; of one sequence
                also [pos]. Positions count from the first token.
            kv_cache: what attention needs of earlier runs; the input continues these, and is added to it.
            token_types: [batch, pos], the type of each token where the model's tokens have types; None for all 0.
            memory: what cross-attention reads, where the model has it: an encoder's last stream [batch, source_pos,
                d_memory], with the mask of its padding in a `Memory`.

        Raises:
            TokenError: text without a tokenizer, unknown words, ids that are not integers or out of range, an empty
                sequence, or one longer than `n_ctx`.
            ShapeError: a tensor of another shape or dtype than described.
            ConfigError: a layer out of range, a return type that these layers cannot give (a loss of next tokens where
                every position sees all others, logits without an unembedding), a memory that is missing or that nothing
                reads, or a `kv_cache` where the model is not causal, has another number of layers or read another
                memory.
        """
        first, last = self.check_options(return_type, loss_per_token, start_at_layer, stop_at_layer, kv_cache)
        prompts = None
        if start_at_layer is None:
            prompts = self.masked_tokens(input, attention_mask, token_types, memory)
            entering, mask, memory = prompts.ids, prompts.attention_mask, prompts.memory
        else:
            if token_types is not None:
                raise ConfigError("token_types are embedded with the tokens, so they exclude start_at_layer")
            entering = check_stream(input, self.cfg, self.W_E)
            mask = check_mask(attention_mask, entering)
            memory = check_memory(memory, entering, self.cfg.d_memory, self.W_E.dtype)
        whole_mask, positions = self._positions(entering, mask, kv_cache)
        if kv_cache is not None:
            kv_cache.check_memory(memory)
        with self.running.over(self._span(entering, whole_mask, memory, kv_cache)):
            x = entering if prompts is None else self._embedded(prompts, positions)
            contexts = self._contexts(range(first, last), x, positions, whole_mask, memory, kv_cache)
            for block, context in zip(self.blocks[first:last], contexts, strict=True):
                x = block(x, context)
            output = x if stop_at_layer is not None else self._output(x, prompts, mask, return_type, loss_per_token)
        if kv_cache is not None:
            kv_cache.commit(entering.shape[0], entering.shape[1], whole_mask, memory)
        return output

    base_forward = forward

    def _embedded(
        self, prompts: MaskedTokens, positions: Int[Tensor, "batch_or_1 pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream that enters the first block."""
        x = self.hook_embed(self.embed(self._read_tokens(prompts.ids)))
        if self.cfg.positions_in_stream:
            x = x + self._position_vectors(positions, len(x))
        if self.cfg.n_token_types:
            types = torch.zeros_like(prompts.ids) if prompts.token_types is None else prompts.token_types
            x = x + self.hook_token_type_embed(self.token_type_embed(types))
        return self.embed_ln(x) if self.cfg.embed_norm else x

    def _read_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The ids that are embedded: those given, as hooks leave them. The loss stays that of the ids given."""
        if not self.hook_tokens.hooks:
            return tokens
        return check_tokens(self.hook_tokens(tokens), self.cfg.d_vocab, self.cfg.n_ctx, tokens.device)

    def _output(
        self,
        x: Float[Tensor, "batch pos d_model"],
        prompts: MaskedTokens | None,
        mask: Bool[Tensor, "batch pos"] | None,
        return_type: ReturnType | ReadOut,
        loss_per_token: bool,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """What a run returns, from its last stream; without a return type what follows runs only where watched."""
        if return_type is None and not self.read_out_is_watched():
            return None
        read = self.ln_final(x)
        if return_type == "pooled" or return_type == "classes":
            if self.cfg.masked_token_head and self.mlm_head.is_watched():
                self.mlm_head(read)
            return self._pooled(read, mask, return_type)
        if self.cfg.masked_token_head:
            read = self.mlm_head(read)
        if return_type is None:
            return None
        if callable(return_type):
            return return_type(read)
        tokens = None if prompts is None else prompts.ids
        return self.output_of(self.unembed(read), tokens, mask, return_type, loss_per_token)

    def _pooled(
        self, read: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None, what: object
    ) -> Float[Tensor, "batch d_pooled"]:
        """The vector of each whole sequence, or the logits of classes on it."""
        is_token = torch.ones(read.shape[:2], dtype=torch.bool, device=read.device) if mask is None else mask
        pooled = self.pooler(read, is_token)
        return pooled if what == "pooled" else self.pooler.classes(pooled)

    def read_out(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """What the unembedding reads of a last stream, past all hook points.

        It is the stream after the final norm, and after the head of a masked-token model. Whoever comes from a stream
        to logits does it by `model.unembed(model.read_out(x))`.
        """
        return self.after_norm(self.ln_final.unhooked(x))

    def after_norm(self, normalized: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """As `read_out`, of a last stream that has passed the final norm."""
        return self.mlm_head.unhooked(normalized) if self.cfg.masked_token_head else normalized

    def read_out_is_watched(self) -> bool:
        """Whether hooks see the final norm, or the head of a masked-token model."""
        return self.ln_final.is_watched() or (self.cfg.masked_token_head and self.mlm_head.is_watched())

    @staticmethod
    def output_of(
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"] | None,
        mask: Bool[Tensor, "batch pos"] | None,
        return_type: Literal["logits", "loss", "both"],
        loss_per_token: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What a run with these logits returns; a loss needs the tokens."""
        if tokens is None or return_type == "logits":
            return logits
        loss = next_token_loss(logits, tokens, mask, loss_per_token)
        return (logits, loss) if return_type == "both" else loss

    def layer_contexts(self, prompts: MaskedTokens) -> list[LayerContext]:
        """What each layer needs beside the stream in a run on `prompts`: masks, positions, a memory."""
        whole_mask, positions = self._positions(prompts.ids, prompts.attention_mask, None)
        layers, x = range(self.cfg.n_layers), self.embed(prompts.ids)
        return self._contexts(layers, x, positions, whole_mask, prompts.memory, None)

    def _contexts(
        self,
        layers: range,
        x: Float[Tensor, "batch new d_model"],
        positions: Int[Tensor, "batch_or_1 new"],
        mask: Bool[Tensor, "batch n_keys"] | None,
        memory: Memory | None,
        kv_cache: KVCache | None,
    ) -> list[LayerContext]:
        read = bias = None
        if self.cfg.positional_embedding_type == "shortformer":
            read = self._position_vectors(positions, len(x))
        elif self.cfg.positional_embedding_type == "relative":
            bias = self.rel_bias(x.shape[1], x.shape[1] + (0 if kv_cache is None else kv_cache.n_pos), len(x))
        return layer_contexts(self.cfg, layers, x, positions, mask, read, kv_cache, bias, memory)

    @staticmethod
    def _span(
        entering: Tensor,
        mask: Bool[Tensor, "batch n_keys"] | None,
        memory: Memory | None,
        kv_cache: KVCache | None,
    ) -> Span:
        """Which positions of its sequence this run carries."""
        batch, n_new = entering.shape[:2]
        source = None if memory is None else memory.is_token
        if kv_cache is None:
            return Span(0, n_new, batch, n_new, n_new, mask, source)
        n_prompt = kv_cache.n_prompt
        if n_prompt is None and kv_cache.n_pos == 0:
            n_prompt = n_new
        return Span(kv_cache.n_pos, n_new, batch, n_prompt, kv_cache.n_final, mask, source)

    def _position_vectors(
        self, positions: Int[Tensor, "batch_or_1 pos"], batch: int
    ) -> Float[Tensor, "batch pos d_model"]:
        """Rows of `W_pos`: for the stream when it is begun, or for what queries and keys read."""
        return self.hook_pos_embed(self.pos_embed(positions).expand(batch, -1, -1))

    def _positions(
        self, new: Tensor, mask: Bool[Tensor, "batch pos"] | None, kv_cache: KVCache | None
    ) -> tuple[Bool[Tensor, "batch n_keys"] | None, Int[Tensor, "batch_or_1 pos"]]:
        """The mask of all keys, and the positions of the new tokens, counted from each sequence's first real one."""
        batch, n_new = new.shape[:2]
        past = 0
        if kv_cache is not None:
            past, mask = kv_cache.n_pos, kv_cache.whole_mask(batch, n_new, mask, new.device)
            if past + n_new > self.cfg.n_ctx:
                raise TokenError(f"{past} cached and {n_new} new tokens exceed the context, n_ctx = {self.cfg.n_ctx}")
        if mask is None:
            return None, torch.arange(past, past + n_new, device=new.device)[None]
        return mask, (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]

    def check_options(
        self,
        return_type: ReturnType | ReadOut,
        loss_per_token: bool,
        start_at_layer: int | None,
        stop_at_layer: int | None,
        kv_cache: KVCache | None,
    ) -> tuple[int, int]:
        """The first block to run, and the first not to. Raises `ConfigError` as `forward` says."""
        return check_run(self.cfg, return_type, loss_per_token, start_at_layer, stop_at_layer, kv_cache)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """What `.to()`, `.half()` and the like do; the config goes on naming the dtype of the parameters."""
        super()._apply(fn, recurse)
        if self.cfg.dtype != self.W_E.dtype:
            self.cfg = dataclasses.replace(self.cfg, dtype=self.W_E.dtype)
        return self

    def _init_weights(self) -> None:
        """Normal weights, zero biases, unit gains; sampled in float32 on the CPU, so that a seed means one model."""
        generator = None if self.cfg.seed is None else torch.Generator("cpu").manual_seed(self.cfg.seed)
        for name, parameter in self.named_parameters():
            if name.rsplit(".", 1)[1].startswith("W_") and not parameter.is_meta:
                sample = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
                with torch.no_grad():
                    parameter.copy_(sample * self.cfg.init_std)
