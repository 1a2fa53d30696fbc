"""The transformer, read from top to bottom.

A sequence of tokens becomes a *residual stream*: one vector of width d_model for every position. Each block reads the
stream and adds to it, first its attention heads (which move information between positions), then its MLP (which works
on each position alone). At the end the stream is read out as logits for the next token. With norms left aside:

    x = W_E[tokens] + W_pos[positions]
    for block in blocks:
        x = x + attention(x)
        x = x + mlp(x)
    logits = x @ W_U

This file holds the model around the blocks. Read `block.py` next, then `attention.py`, `components.py` and `norms.py`.
Every place where the stream is read or written, and every step in between, is a hook point; `model.hook_map()` lists
them.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.config import TransformerConfig
from interp.errors import CheckpointError, ConfigError, ShapeError, TokenError, describe
from interp.keywords import known_keywords
from interp.model.block import Block
from interp.model.components import Embed, PosEmbed, Unembed
from interp.model.context import LayerContext, layer_contexts
from interp.model.generate import Generates
from interp.model.hooked import Hooked, ReadOut, ReturnType
from interp.model.hooks import HookPoint, Span
from interp.model.kv_cache import KVCache
from interp.model.loss import check_predicts_tokens, next_token_loss
from interp.model.norms import Norm
from interp.model.stacked import StackedWeights
from interp.model.text import ReadsText
from interp.text import AttentionMask, Ids, MaskedTokens, Text, check_mask, check_tokens

if TYPE_CHECKING:
    from interp.checkpoints import Snapshot

Model = TypeVar("Model", bound="HookedTransformer")
"""A class of models; the run-time checks of the tests do not know `Self` in a class method."""


class HookedTransformer(StackedWeights, Hooked, ReadsText, Generates):
    """A transformer with a hook point at every step.

    A subclass may say in `block_type` which class its blocks have.

    Args:
        cfg: the architecture, or its fields as a dictionary.
        tokenizer: what turns text into token ids, if the model should take text: a `Vocabulary`, a `Tokenizer` or
            another `TextCodec`, or a fast tokenizer of transformers.
        device: where the parameters live; "meta" allocates nothing.
        init_weights: False leaves the weights uninitialised, for a caller who fills them.

    Raises:
        ConfigError: the vocabulary has more words than `cfg.d_vocab`, or `cfg` is no config.
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
    ):
        super().__init__()
        cfg = cfg if isinstance(cfg, TransformerConfig) else TransformerConfig.from_dict(cfg)
        self.cfg, self.tokenizer = cfg, tokenizer
        with torch.device(device or torch.get_default_device()):
            self.hook_tokens = HookPoint("batch pos", "the token ids, as the embedding reads them", lazy=True)
            self.embed = Embed(cfg)
            self.hook_embed = HookPoint("batch pos d_model", "the token's vector: the first write to the stream")
            if cfg.has_position_vectors:
                self.pos_embed = PosEmbed(cfg)
                shown_to = "queries and keys only" if cfg.positional_embedding_type == "shortformer" else "the stream"
                self.hook_pos_embed = HookPoint("batch pos d_model", f"the position's vector, added to {shown_to}")
            self.blocks = cast(Sequence[Block], nn.ModuleList(self.block_type(cfg, i) for i in range(cfg.n_layers)))
            # In a post-norm model the last block has already normalised the stream.
            self.ln_final = Norm(cfg.normalization_type if cfg.norms_reads else None, cfg.d_model, cfg.eps)
            self.unembed = Unembed(cfg, self.embed)
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
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Run the model, or the blocks from `start_at_layer` up to but not including `stop_at_layer`.

        Args:
            input: text, or several (padded on the left and masked where their lengths differ); token ids [batch, pos]
                or [pos], as a tensor, an array or lists; with `start_at_layer` the residual stream
                [batch, pos, d_model] that enters that block.
            return_type: "logits" [batch, pos, d_vocab_out]; "loss", the mean cross-entropy in nats over all next tokens
                of the batch (`interp.metrics.Loss` is the mean of each prompt); "both" as (logits, loss); None. Losses
                are in float32 at least, whatever the model's dtype.
            loss_per_token: a loss for every predicted token, [batch, pos - 1]; 0 where it or its predictor is padding.
            start_at_layer, stop_at_layer: 0 to n_layers, or negative from the end. With `stop_at_layer` the result is
                the stream that would enter that block (after all blocks: the one the final norm reads).
            attention_mask: [batch, pos], true or 1 for tokens and false or 0 for padding, of any type; of one sequence
                also [pos]. Positions count from the first token.
            kv_cache: what attention needs of earlier runs; the input continues these, and is added to it.

        Raises:
            TokenError: text without a tokenizer, unknown words, ids that are not integers or out of range, an empty
                sequence, or one longer than `n_ctx`.
            ShapeError: a tensor of another shape or dtype than described.
            ConfigError: a layer out of range, a return type that these layers cannot give, or a `kv_cache` where the
                model is not causal or has another number of layers.
        """
        first, last = self.check_options(return_type, loss_per_token, start_at_layer, stop_at_layer, kv_cache)
        tokens = None
        if start_at_layer is None:
            prompts = self.masked_tokens(input, attention_mask)
            tokens = entering = prompts.ids
            mask = prompts.attention_mask
        else:
            entering = self.check_stream(input)
            mask = check_mask(attention_mask, entering)
        whole_mask, positions = self._positions(entering, mask, kv_cache)
        with self.running.over(self._span(entering, whole_mask, kv_cache)):
            x = entering if tokens is None else self.hook_embed(self.embed(self._read_tokens(tokens)))
            vectors = self._position_vectors(positions, x, embedding=tokens is not None)
            if self.cfg.positions_in_stream and vectors is not None:
                x, vectors = x + vectors, None

            contexts = layer_contexts(self.cfg, range(first, last), x, positions, whole_mask, vectors, kv_cache)
            for block, context in zip(self.blocks[first:last], contexts, strict=True):
                x = block(x, context)
            output = x if stop_at_layer is not None else self._read_out(x, tokens, mask, return_type, loss_per_token)
        if kv_cache is not None:
            kv_cache.commit(entering.shape[0], entering.shape[1], whole_mask)
        return output

    def _read_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The ids that are embedded: those given, as hooks leave them. The loss stays that of the ids given."""
        if not self.hook_tokens.hooks:
            return tokens
        return check_tokens(self.hook_tokens(tokens), self.cfg.d_vocab, self.cfg.n_ctx, tokens.device)

    def _read_out(
        self,
        x: Float[Tensor, "batch pos d_model"],
        tokens: Int[Tensor, "batch pos"] | None,
        mask: Bool[Tensor, "batch pos"] | None,
        return_type: ReturnType | ReadOut,
        loss_per_token: bool,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """What a run returns, from its last stream; without a return type the final norm runs only where watched."""
        if return_type is None and not self.ln_final.is_watched():
            return None
        read = self.ln_final(x)
        if return_type is None:
            return None
        if callable(return_type):
            return return_type(read)
        return self.output_of(self.unembed(read), tokens, mask, return_type, loss_per_token)

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
        """What each layer needs beside the stream in a run on `prompts`: masks, rotations, position vectors."""
        whole_mask, positions = self._positions(prompts.ids, prompts.attention_mask, None)
        x = self.embed(prompts.ids)
        vectors = None if self.cfg.positions_in_stream else self._position_vectors(positions, x, embedding=False)
        return layer_contexts(self.cfg, range(self.cfg.n_layers), x, positions, whole_mask, vectors, None)

    @staticmethod
    def _span(entering: Tensor, mask: Bool[Tensor, "batch n_keys"] | None, kv_cache: KVCache | None) -> Span:
        """Which positions of its sequence this run carries."""
        batch, n_new = entering.shape[:2]
        if kv_cache is None:
            return Span(0, n_new, batch, n_prompt=n_new, n_final=n_new, attention_mask=mask)
        n_prompt = kv_cache.n_prompt
        if n_prompt is None and kv_cache.n_pos == 0:
            n_prompt = n_new
        return Span(kv_cache.n_pos, n_new, batch, n_prompt, kv_cache.n_final, mask)

    def _position_vectors(
        self, positions: Int[Tensor, "batch_or_1 pos"], x: Float[Tensor, "batch pos d_model"], embedding: bool
    ) -> Float[Tensor, "batch pos d_model"] | None:
        """Rows of `W_pos`, where this run uses them: for the stream when it is begun, for queries and keys always."""
        if not self.cfg.has_position_vectors or (self.cfg.positions_in_stream and not embedding):
            return None
        return self.hook_pos_embed(self.pos_embed(positions).expand(len(x), -1, -1))

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

    # ------------------------------------------------------------------ checks on what comes in

    def check_options(
        self,
        return_type: ReturnType | ReadOut,
        loss_per_token: bool,
        start_at_layer: int | None,
        stop_at_layer: int | None,
        kv_cache: KVCache | None,
    ) -> tuple[int, int]:
        """The first block to run, and the first not to. Raises `ConfigError` as `forward` says."""
        first, last = self._layer_range(start_at_layer, stop_at_layer)
        if not callable(return_type) and return_type not in ("logits", "loss", "both", None):
            raise ConfigError(f"return_type = {describe(return_type)}; allowed: 'logits', 'loss', 'both' or None")
        if return_type in ("loss", "both"):
            check_predicts_tokens(self.cfg, f"return_type = {return_type!r}")
        if loss_per_token and return_type not in ("loss", "both"):
            raise ConfigError(f"loss_per_token = True contradicts return_type = {describe(return_type)}")
        if kv_cache is not None and not isinstance(kv_cache, KVCache):
            raise ConfigError(f"kv_cache = {describe(kv_cache)}; allowed: a KVCache, or None")
        if kv_cache is not None and self.cfg.attention_dir != "causal":
            raise ConfigError("kv_cache needs attention_dir = 'causal': here earlier positions attend to later ones")
        if kv_cache is not None:
            kv_cache.check_fits(self.cfg)
        if kv_cache is not None and (start_at_layer is not None or last < self.cfg.n_layers):
            raise ConfigError(
                "kv_cache needs every layer to run: it excludes start_at_layer and an earlier stop_at_layer"
            )
        if return_type in ("loss", "both") and (start_at_layer is not None or stop_at_layer is not None):
            raise ConfigError(f"return_type = {return_type!r} needs tokens and logits, so it excludes start_at_layer "
                              "and stop_at_layer")  # fmt: skip
        return first, last

    def check_stream(self, x: Text | Ids | MaskedTokens) -> Float[Tensor, "batch pos d_model"]:
        """A residual stream as a run can begin with it. Raises `ShapeError` for anything else."""
        wanted = f"start_at_layer takes the residual stream [batch, pos, {self.cfg.d_model}] in {self.W_E.dtype}"
        if not isinstance(x, Tensor):
            raise ShapeError(f"{wanted}, not a {type(x).__name__}")
        if x.ndim != 3 or x.shape[2] != self.cfg.d_model or x.dtype != self.W_E.dtype or x.numel() == 0:
            raise ShapeError(f"{wanted}, not {x.dtype} of shape {tuple(x.shape)}")
        if x.device != self.W_E.device:
            raise ShapeError(f"{wanted} on {self.W_E.device}, not on {x.device}")
        if x.shape[1] > self.cfg.n_ctx:
            raise ShapeError(f"{wanted} of at most n_ctx = {self.cfg.n_ctx} positions, not {x.shape[1]}")
        return x

    # ------------------------------------------------------------------ weights

    def save_pretrained(self, folder: str | os.PathLike[str], model_type: str | None = None) -> None:
        """Write `config.json` and `model.safetensors`, each file whole or not at all.

        Args:
            folder: where the files go; it is made if it is not there.
            model_type: None for this package's own format, which holds the tokenizer too. A family of transformers,
                such as "gpt2" or "llama", writes what transformers' own `from_pretrained` reads, without a tokenizer.

        Raises `CheckpointError` for a tokenizer that cannot be saved, or naming the field or the tensor that
        `model_type` has no place for.
        """
        from interp.checkpoints import save_checkpoint

        save_checkpoint(folder, self.cfg, self.tokenizer, self.state_dict(), model_type)

    def save_snapshot(self, folder: str | os.PathLike[str]) -> None:
        """Write this model so that many processes can open it at once: its weights are mapped, not read.

        `from_pretrained` opens the folder as any other. On the CPU and in the same dtype the weights stay in the file:
        they are in memory once for all processes of a machine, and opening the model takes no time for them. What a
        process writes to a weight is its own; no other process sees it, nor does the file. The weights lie in memory as
        they do here, so that runs give the same bits, and the same parameters are trained. The tokenizer comes along.

        The files are `config.json`, written last, and `model.safetensors`, each whole or not at all. As long as a model
        uses them, nothing else may write into `model.safetensors` (to replace the file is fine).

        Raises `CheckpointError` for a tokenizer that cannot be saved, for parts of other types than those of a new
        model of this class, and for weights on the meta device, of several dtypes, or that are slices of larger ones.
        """
        from interp.checkpoints import save_snapshot

        if self.W_E.is_meta:
            raise CheckpointError("this model is on the meta device, without values: there is nothing to save")
        other = type(self)(self.cfg, self.tokenizer, "meta", init_weights=False)
        kinds, others = ({path: type(part) for path, part in model.named_modules()} for model in (self, other))
        for path in dict.fromkeys([*kinds, *others]):
            if kinds.get(path) is not others.get(path):
                kind, plain = (getattr(found.get(path), "__name__", "nothing") for found in (kinds, others))
                raise CheckpointError(f"{path} is {kind}, and {plain} in a new {type(self).__name__}: a snapshot holds "
                                      "weights only")  # fmt: skip
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        save_snapshot(folder, self.cfg, self.tokenizer, self.state_dict(), self.weights_hash(), frozen)

    @classmethod
    @known_keywords
    def from_pretrained(
        cls: type[Model],
        name_or_path: str | os.PathLike[str] | None = None,
        hf_model: Any = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
    ) -> Model:
        """A saved or published model, with its weights as they are.

        Args:
            name_or_path: a folder (written by `save_pretrained`, `save_snapshot` or transformers), a `.gguf` file, a
                fetched model ("smollm2-135m-instruct"), or the name of a repository on the Hugging Face hub.
            hf_model: an instance of a transformers model, in place of files. It may be compiled, or wrapped for several
                devices; quantised weights and adapters that are not merged are refused.
            dtype: of the parameters; None for the checkpoint's, in which `save_pretrained` comes back bit for bit.
            device: where they live.
            revision: branch, tag or commit of a repository on the hub, such as a step of training.
            tokenizer: in place of the checkpoint's own (see the class); with `hf_model` there is none by default.

        Raises `CheckpointError` naming the option that is not supported, or the file and the tensor that is missing,
        surplus, or of another shape or dtype. Pickled weights are never loaded.
        """
        from interp.checkpoints import Snapshot, open_checkpoint

        found = open_checkpoint(name_or_path, hf_model, dtype, device, revision, tokenizer)
        snapshot = found.weights if isinstance(found.weights, Snapshot) else None
        model = cls(found.cfg, found.tokenizer, "meta", init_weights=False)
        found.check(model.state_dict())
        if snapshot is not None:
            model._take(snapshot, device)
        if any(tensor.is_meta for tensor in _tensors(model)):  # a subclass may have some that are in no checkpoint
            model = cls(found.cfg, found.tokenizer, device, init_weights=False)
            if snapshot is None:
                found.fill(model.state_dict())
            else:
                model._take(snapshot, device)
        if model.cfg.has_position_vectors:
            model.pos_embed.refine()
        return model

    def _take(self, snapshot: "Snapshot", device: str | torch.device | None) -> None:
        """Let the weights of a snapshot, where they lie, be those of this model."""
        self.load_state_dict(snapshot.mapped(self.cfg.dtype, device), assign=True)
        for name in snapshot.about.frozen:
            self.get_parameter(name).requires_grad_(False)

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


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that a part has as plain attributes."""
    for part in model.modules():
        held = (*part._parameters.values(), *part._buffers.values(), *vars(part).values())
        yield from (one for one in held if isinstance(one, Tensor))
