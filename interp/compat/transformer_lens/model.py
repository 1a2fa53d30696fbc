"""`HookedTransformer` in TransformerLens's words; every call goes to `model.core`, an `interp.HookedTransformer`."""

import copy
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partialmethod
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

import interp
from interp.compat.transformer_lens import loading, utils
from interp.compat.transformer_lens.cache import ActivationCache
from interp.compat.transformer_lens.checks import ensure, not_covered
from interp.compat.transformer_lens.components import PosEmbed
from interp.compat.transformer_lens.config import HookedTransformerConfig
from interp.compat.transformer_lens.hook_points import HookedRootModule, HookPoint
from interp.compat.transformer_lens.model_text import ReadsText
from interp.compat.transformer_lens.model_weights import HasWeights
from interp.compat.transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache
from interp.errors import ConfigError, check_choice, did_you_mean
from interp.model import Norm
from interp.text import TextCodec, as_tokenizer, is_text

SWITCHES = {"hook_result": "use_attn_result", "hook_q_input": "use_split_qkv_input", "hook_attn_in": "use_attn_in",
            "hook_k_input": "use_split_qkv_input", "hook_v_input": "use_split_qkv_input",
            "hook_mlp_in": "use_hook_mlp_in", "hook_tokens": "use_hook_tokens"}  # fmt: skip
"""The fields of the config that switch points on, by the last part of the points' names."""


class Output(NamedTuple):
    """What a run returns with `return_type="both"`."""

    logits: Tensor
    loss: Tensor


class HookedTransformer(ReadsText, HasWeights):
    """A model whose calls, names and defaults are those of TransformerLens 2.

    Attributes:
        core: the model itself, an `interp.HookedTransformer`: what all functions of interp take. Its parts and hook
            points are this module's, so that a hook or a weight that is set here is set there.
        cfg: the architecture, a copy of the one given.
        tokenizer: as it was given; a tokenizer of transformers is copied, and gets a padding token if it has none.

    Raises `ConfigError` naming the field of `cfg` that the core cannot compute.
    """

    core: interp.HookedTransformer
    embed: Any
    pos_embed: Any
    blocks: Any
    ln_final: Any
    unembed: Any
    _mask: Tensor | None = None  # of the last run

    def __init__(
        self,
        cfg: HookedTransformerConfig | Mapping[str, Any],
        tokenizer: Any = None,
        move_to_device: bool = True,
        default_padding_side: str = "right",
    ):
        super().__init__()
        if isinstance(cfg, str):
            raise ValueError("HookedTransformer takes a config; for a name there is HookedTransformer.from_pretrained")
        cfg = HookedTransformerConfig.unwrap(cfg)
        if tokenizer is None and cfg.tokenizer_name is not None:
            tokenizer = loading.load_tokenizer(cfg.tokenizer_name)
        if cfg.d_vocab == -1:
            ensure(tokenizer is not None, "Must provide a tokenizer if d_vocab is not provided")
            size = cast(TextCodec, as_tokenizer(tokenizer)).d_vocab
            cfg = cfg.of_model(d_vocab=size, d_vocab_out=size if cfg.d_vocab_out == -1 else cfg.d_vocab_out)
        device = cfg.device if move_to_device else "cpu"
        core = interp.HookedTransformer(cfg.to_core(), None, device, init_weights=False)
        self._adopt(core, cfg)
        self.set_tokenizer(tokenizer, default_padding_side)
        if cfg.init_weights:
            self.init_weights()

    @classmethod
    def over(
        cls,
        core: interp.HookedTransformer,
        cfg: HookedTransformerConfig | None = None,
        tokenizer: Any = None,
        default_padding_side: str = "right",
    ) -> "HookedTransformer":
        """A model of the core in these words, its weights as they are; by default with its own tokenizer."""
        model = cls.__new__(cls)
        HookedRootModule.__init__(model)
        tokenizer = core.tokenizer if tokenizer is None else tokenizer
        model._adopt(core, HookedTransformerConfig.of_core(core.cfg) if cfg is None else cfg)
        model.set_tokenizer(tokenizer, default_padding_side)
        return model

    def _adopt(self, core: interp.HookedTransformer, cfg: HookedTransformerConfig) -> None:
        """Take the parts and the hook points of the core as this module's."""
        for module in core.modules():
            for name, point in list(vars(module).items()):
                if isinstance(point, interp.HookPoint) and not isinstance(point, HookPoint):
                    rms = module if isinstance(module, Norm) and module.kind == "RMS" else None
                    vars(module)[name] = HookPoint.over(point, rms if name == "hook_normalized" else None)
        core.name_hook_points(core.axis_sizes)
        vars(self).update({name: point for name, point in vars(core).items() if isinstance(point, HookPoint)})
        vars(self)["core"] = core  # past torch, to which it is no part beside its own parts
        for name, part in core.named_children():  # theirs is called with tokens, the core's with positions
            super().__setattr__(name, PosEmbed.over(core.pos_embed) if name == "pos_embed" else part)
        self.cfg = cfg.of_model(device=core.W_E.device, dtype=core.cfg.dtype)
        self.setup()

    def __setattr__(self, name: str, value: Any) -> None:
        """A part that is put in the place of another is the core's too: `model.ln_final = nn.Identity()`."""
        if "core" in vars(self) and name in self.core._modules:
            if name == "pos_embed":
                raise ConfigError("pos_embed cannot be replaced: change W_pos, or hook hook_pos_embed")
            setattr(self.core, name, value)
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.cfg = self.cfg.of_model()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if refused := not_covered("HookedTransformer.", name):
                return refused
            raise

    def setup(self) -> None:
        """Name all modules; the hook points have the core's names."""
        super().setup()
        self.hook_dict = cast(dict[str, HookPoint], dict(self.core.hook_points))
        if not self.cfg.use_hook_tokens:  # then theirs has no such point, and a hook at all points sees no integers
            del self.hook_dict["hook_tokens"]
        self.mod_dict |= self.hook_dict

    # ------------------------------------------------------------------ runs

    def forward(
        self,
        input: Any,
        return_type: str | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        shortformer_pos_embed: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: HookedTransformerKeyValueCache | None = None,
    ) -> Any:
        """Run the model on text, on ids [batch, pos], or with `start_at_layer` on the stream that enters that block.

        `return_type` is "logits", "loss" (the mean, or one a predicted token), "both" or None; with `stop_at_layer` the
        stream is returned that would enter that block. A run that starts at a layer needs `tokens` for a loss. By
        default all are tokens, but with padding on the left, or a `past_kv_cache`, the outermost padding tokens. As in
        TransformerLens bidirectional attention sees padding, and only the positions take the mask into account. Raises
        as the core's `forward`.
        """
        check_choice("return_type", return_type or "logits", ("logits", "loss", "both"))
        positions = nullcontext()
        if start_at_layer is None:
            given = prepend_bos, padding_side, attention_mask, past_kv_cache is not None
            tokens, attention_mask = self._prompts(input, *given)
            input = tokens
        elif self.cfg.positional_embedding_type == "shortformer":
            vectors = shortformer_pos_embed
            positions = self._positions(lambda own: torch.zeros_like(own) if vectors is None else vectors)
        options: dict[str, Any] = {"start_at_layer": start_at_layer, "stop_at_layer": stop_at_layer}
        options |= {"return_type": None} if return_type is None and stop_at_layer is None else {}
        with positions:
            output = self._run(input, attention_mask, past_kv_cache, **options)
        if stop_at_layer is not None or return_type in (None, "logits"):
            return output
        ensure(tokens is not None, "tokens must be passed in if return_type is 'loss' or 'both'")
        assert tokens is not None
        loss = self.loss_fn(output, tokens, attention_mask, loss_per_token)
        return Output(output, loss) if return_type == "both" else loss

    def _run(self, input: Tensor, mask: Tensor | None, past: Any = None, **options: Any) -> Any:
        """What the core gives for ids or a stream."""
        kv_cache = copy.deepcopy(past) if past is not None and past.frozen else past
        self._mask = mask = None if mask is None or bool(mask.all()) else mask
        if mask is not None and self.cfg.attention_dir != "causal":  # attention sees padding, which has no position
            if self.cfg.positional_embedding_type != "standard":
                raise ConfigError("attention_mask: with bidirectional attention, only positions that are added to the "
                                  "stream can leave out padding")  # fmt: skip
            if options.get("start_at_layer") is None:
                is_token = mask[..., None]
                with self._positions(lambda vectors: vectors * is_token):
                    input = self.core(input, stop_at_layer=0, attention_mask=mask)
                options["start_at_layer"] = 0
            mask = None
        return self.core(input, attention_mask=mask, kv_cache=kv_cache, **options)

    @contextmanager
    def _positions(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Within it the position vectors are others, for all hooks to see."""
        point = self.hook_dict["hook_pos_embed"]
        point.add_hook(lambda vectors, hook: change(vectors), prepend=True)
        first = point.hooks[0]
        try:
            yield
        finally:
            point.hooks.remove(first)

    def _prompts(
        self, input: Any, prepend_bos: bool | None, side: str | None, mask: Tensor | None, caching: bool
    ) -> tuple[Int[Tensor, "batch pos"], Tensor | None]:
        """The ids of a run's input, and its mask where it needs one."""
        tokens = self.to_tokens(input, prepend_bos, side) if is_text(input) else torch.as_tensor(input)
        tokens = (tokens[None] if tokens.ndim == 1 else tokens).to(self.core.W_E.device)
        side = side or self.padding_side
        if mask is None and self.tokenizer is not None and (side == "left" or caching):
            pad, first = self.special_token("pad"), self.special_token("bos")
            marks = types.SimpleNamespace(padding_side=side, pad_token_id=pad, bos_token_id=first)
            bos = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
            mask = utils.get_attention_mask(marks, tokens, bos)
        ensure(mask is None or mask.shape == tokens.shape, f"attention_mask and tokens {tuple(tokens.shape)} differ")
        return tokens, None if mask is None else mask.to(tokens.device)

    def input_to_embed(
        self,
        input: Any,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
        past_kv_cache: HookedTransformerKeyValueCache | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Int[Tensor, "batch pos"], Tensor | None, Tensor | None]:
        """The stream that enters the first block, the ids, position vectors (shortformer), and the attention mask."""
        tokens, mask = self._prompts(input, prepend_bos, padding_side, attention_mask, past_kv_cache is not None)
        seen: list[Tensor] = []
        apart = self.cfg.positional_embedding_type == "shortformer"
        with self._positions(lambda vectors: seen.append(vectors) or vectors) if apart else nullcontext():
            stream = self._run(tokens, mask, stop_at_layer=0)
        return stream, tokens, seen[0] if seen else None, mask

    loss_fn = staticmethod(utils.lm_cross_entropy_loss)

    def run_with_cache(self, *model_args: Any, return_cache_object: bool = True, **options: Any) -> tuple[Any, Any]:
        """One run, and what it left as an `ActivationCache`, or as a dictionary without `return_cache_object`.

        Options are those of `HookedRootModule.run_with_cache` and of calling the model.
        """
        for hook in itertools.chain(*(point.hooks for point in self.hook_points())):
            hook.edited = False
        output, kept = super().run_with_cache(*model_args, **options)
        if not return_cache_object:
            return output, kept
        removed, positions = options.get("remove_batch_dim", False), utils.Slice.unwrap(options.get("pos_slice"))
        return output, ActivationCache(kept, self, not removed, self._core_cache(kept, removed, positions))

    def _core_cache(self, kept: Mapping[str, Tensor], removed: bool, positions: utils.Slice) -> interp.ActivationCache:
        """The same as the core would have cached it."""
        values = {name: value[None] if removed else value for name, value in kept.items()}
        for name in values:
            point = self.hook_dict[name.removesuffix("_grad")]
            if point._norm:
                gain = point.gain.to(values[name].device)
                values[name] = values[name] / gain if name.endswith("_grad") else values[name] * gain
        edited = any(hook.edited for point in self.hook_points() for hook in point.fwd_hooks)
        mask = None if self._mask is None else positions.apply(self._mask, 1).bool()
        return interp.ActivationCache(values, self.core, edited, mask)

    def check_hooks_to_add(self, hook_point: HookPoint, hook_point_name: str, *args: Any, **options: Any) -> None:
        """Raise `LensError` for a point whose switch in the config is off."""
        switch = SWITCHES.get(hook_point_name.rsplit(".", 1)[-1])
        ensure(switch is None or getattr(self.cfg, switch), f"Cannot add hook {hook_point_name} if {switch} is False")

    def _is_computed(self, point: HookPoint) -> bool:
        switch = SWITCHES.get(point.name.rsplit(".", 1)[-1])
        return not point.lazy if switch is None else getattr(self.cfg, switch)

    def _set(self, switch: str, *on: bool, **named: bool) -> None:
        """Whether points are switched on. Raises `LensError` where the model has none of them."""
        (name, value), *more = [*((switch, one) for one in on), *named.items()] or [("nothing", False)]
        if more or name != switch:
            raise TypeError(f"set_{switch} takes {switch} alone")
        attn_only, grouped = self.cfg.attn_only, self.cfg.n_key_value_heads is not None
        ensure(switch != "use_hook_mlp_in" or not attn_only, "Can't use hook_mlp_in with attn_only model")
        ensure(switch != "use_attn_in" or not grouped, "Can't use attn_in with GroupedQueryAttention")
        setattr(self.cfg, switch, value)

    set_use_attn_result = partialmethod(_set, "use_attn_result")
    set_use_split_qkv_input = partialmethod(_set, "use_split_qkv_input")
    set_use_hook_mlp_in = partialmethod(_set, "use_hook_mlp_in")
    set_use_attn_in = partialmethod(_set, "use_attn_in")
    set_ungroup_grouped_query_attention = partialmethod(_set, "ungroup_grouped_query_attention")

    # ---------------------------------------------------------------------- weights and devices

    def process_weights_(self, **steps: bool) -> None:
        """Other weights for the same function in place of these, by the steps of `loading.processed`; hooks stay.

        Parameters are new objects after it.
        """
        hooks = {name: (point.hooks, point.ctx) for name, point in self.hook_dict.items()}
        self._adopt(*loading.processed(self.core, self.cfg, **steps))
        for name, (held, ctx) in hooks.items():
            point = self.hook_dict[name]
            point.hooks, point.ctx = held, ctx
            for hook in point.fwd_hooks + point.bwd_hooks:
                hook.point = point

    def load_and_process_state_dict(self, state_dict: Mapping[str, Tensor], **steps: bool) -> None:
        """Take weights, and process them."""
        self.load_state_dict(state_dict, strict=False)
        self.process_weights_(**steps)

    def to(self, *args: Any, print_details: bool = True, **options: Any) -> "HookedTransformer":
        """As of every module; there are no details that would be printed."""
        return super().to(*args, **options)

    mps = partialmethod(to, "mps")

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "HookedTransformer":
        self.core._apply(fn, recurse)
        self.cfg.device, self.cfg.dtype = self.core.W_E.device, self.core.cfg.dtype
        return self

    # ------------------------------------------------------------------ published models

    @classmethod
    def from_pretrained(
        cls,
        model_name: str,
        *,
        hf_model: Any = None,
        tokenizer: Any = None,
        device: str | torch.device | None = None,
        move_to_device: bool = True,
        dtype: torch.dtype | str = "float32",
        checkpoint_value: int | None = None,
        revision: str | None = None,
        default_prepend_bos: bool | None = None,
        default_padding_side: str = "right",
        **options: Any,
    ) -> "HookedTransformer":
        """A published model by its name, its path or as an instance of transformers, its weights processed.

        Names, files and `revision=` are those of `interp.HookedTransformer.from_pretrained`. Other options are steps of
        processing (`fold_ln`, `center_writing_weights`, `center_unembed`, `fold_value_biases`,
        `refactor_factored_attn_matrices`), of which those that the architecture does not allow are left out with a
        warning: see `loading.processed`. Raises `ConfigError` for an option that is not covered, and `CheckpointError`
        for what cannot be had.
        """
        steps = {name: options.pop(name) for name in loading.STEPS if name in options}
        dtype = options.pop("torch_dtype", dtype)
        for name, value in options.items():
            if name not in loading.NEUTRAL or value != loading.NEUTRAL[name]:
                near = did_you_mean(name, loading.STEPS)
                raise ConfigError(f"{name}= is not covered; a step of training is checkpoint_value= or revision={near}")
        where = (device or utils.get_device()) if move_to_device else "cpu"
        revision = revision if checkpoint_value is None else f"step{checkpoint_value}"
        core = loading.load_core(model_name, hf_model, dtype=dtype, device=where, revision=revision)
        tokenizer = loading.tokenizer_of(core, model_name) if tokenizer is None else tokenizer
        said = {"model_name": model_name.split("/")[-1], "default_prepend_bos": default_prepend_bos is not False}
        cfg = HookedTransformerConfig.of_core(core.cfg, **said)
        return cls.over(*loading.processed(core, cfg, **steps), tokenizer, default_padding_side)

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str, **options: Any) -> "HookedTransformer":
        """As `from_pretrained`, with the weights as they are."""
        return cls.from_pretrained(model_name, **{**dict.fromkeys(loading.STEPS, False), **options})
