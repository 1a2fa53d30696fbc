"""TransformerConfig: everything that fixes a model's shape and arithmetic, validated once and then frozen."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_type_hints

import torch

from interp.config.combinations import check_combinations
from interp.config.counts import ParameterCounts, count_parameters
from interp.config.fields import alternatives, check_by_name, check_names, fits, spell_all, torch_dtype
from interp.config.rotary import RotaryScaling
from interp.errors import ConfigError, describe, did_you_mean

ActFn = Literal["relu", "gelu", "gelu_new", "gelu_fast", "silu", "solu", "solu_ln"]
"""The function of an MLP's neurons; see `TransformerConfig.act_fn`."""

NormType = Literal["LN", "RMS"]
"""LayerNorm, or RMSNorm, which takes no mean off."""

PositionType = Literal[
    "standard", "onehot", "sinusoidal", "sinusoidal_halves", "rotary", "relative", "shortformer", "none"
]
"""How a model knows positions; see `TransformerConfig.positional_embedding_type`."""

DERIVED: Any = None
"""The default of a field that is computed from the others when it is not given."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The architecture of a `HookedTransformer`.

    Attributes:
        n_layers: number of blocks; 0 is the model that maps a token straight to its successors.
        d_model: width of the residual stream.
        n_ctx: longest sequence.
        d_vocab: number of tokens.
        d_vocab_out: number of logits; by default `d_vocab`. With another number the logits are of other things than
            tokens (the classes of a task): answers are their numbers, and there is no loss and no generation. With 0
            there is no unembedding: the model is read at its last stream (sentence encoders, the encoder of a pair).
        n_heads: heads a layer; by default `d_model // d_head`.
        d_head: width of a head; by default `d_model // n_heads`.
        n_key_value_heads: heads with keys and values of their own, each shared by a group of query heads
            (grouped-query attention, Ainslie et al. 2023); by default `n_heads`.
        attn_only: blocks without an MLP.
        d_mlp: hidden neurons; by default `4 * d_model`, and 0 in an attention-only model.
        act_fn: "gelu" is the exact one, "gelu_new" and "gelu_fast" are two names of its tanh approximation; "solu" is
            `x * softmax(x)` over the neurons, and "solu_ln" that with a LayerNorm after it (Elhage et al. 2022).
        gated_mlp: `act(x W_gate + b_gate) * (x W_in + b_in)` (Shazeer 2020) in place of `act(x W_in + b_in)`.
        normalization_type: "LN" (Ba et al. 2016, variance over d, not d - 1), "RMS" (Zhang & Sennrich 2019) or None.
        norm_position: "pre" reads through the norm, `x + f(norm(x))`, with one more norm before the unembedding;
            "post" normalises the stream itself, `norm(x + f(x))`, and has no final norm (Vaswani et al. 2017);
            "both" is "pre" with one more norm on what is written, `x + norm(f(norm(x)))` (Gemma 2).
        eps: added to the variance inside the square root.
        embed_norm: the sum of the embeddings passes through a norm, `embed_ln`, before the first block (BERT).
        first_ln1: False leaves out the norm through which attention of layer 0 reads (ModernBERT).
        positional_embedding_type: "standard" learned vectors added to the stream; "onehot" fixed unit vectors in
            its last n_ctx dimensions; "sinusoidal" fixed, sines and cosines in turn (Vaswani et al. 2017, section 3.5),
            "sinusoidal_halves" all sines and then all cosines (Marian); "rotary" (Su et al. 2021); "relative" learned
            biases of scores by the distance from query to key, the same in all layers (Raffel et al. 2020, section
            2.1); "shortformer" learned vectors that queries and keys alone see, added to what they read after the norm
            (Press et al. 2021; `ln1(x) + W_pos`, as published checkpoints have them); "none".
        relative_buckets: how many distances have a bias of their own; by default 32.
        relative_max_distance: from which distance on all share one; by default 128.
        n_token_types: how many types tokens can have, each a learned vector that is added to the stream (BERT's two
            segments); 0 for none.
        rotary_base: longest wavelength / 2 pi; one, or a tuple with one for each layer.
        rotary_dim: how many leading dimensions of a head are rotated.
        rotary_scaling: a `RotaryScaling` or None, or a tuple with one for each layer.
        attention_dir: "causal" or "bidirectional".
        attn_scale: what q . k is *divided* by; by default sqrt(d_head).
        attn_implementation: "eager" writes attention out, with the same bits observed or not; "sdpa" uses torch's
            fused kernel in every block whose scores and pattern nobody looks at.
        window_size: a query sees itself and the `window_size - 1` keys before it, and with bidirectional attention as
            many after it; one, or a tuple with one (or None) for each layer.
        d_memory: width of the memory that cross-attention reads between attention and MLP of every block: the last
            stream of an encoder. 0 for a model without cross-attention.
        attn_scores_soft_cap, output_logits_soft_cap: `cap * tanh(x / cap)` on scores, on logits (Gemma 2).
        use_qk_norm: RMS norm with a gain over d_head on every query and key (Qwen 3).
        parallel_attn_mlp: attention and MLP read the same stream and their outputs are added together.
        tie_word_embeddings: `W_U = W_E^T`.
        masked_token_head: before the unembedding the last stream passes through `norm(act(x W_in + b_in))` (Devlin et
            al. 2019).
        pooling: how the last stream, past the final norm, becomes one vector a sequence: "mean" over its tokens; "cls",
            that of its first token; "pooler", `tanh(x W + b)` of that (Devlin et al. 2019); None for no such vector.
        normalize_pooled: that vector is divided by its length (sentence encoders).
        n_pooled_classes: how many classes have a logit on that vector, such as BERT's two of next sentences.
        embed_scale: token vectors are multiplied by it on their way into the stream (Gemma: sqrt(d_model)). A run
            rounds it to its dtype.
        init_std: standard deviation of initial weights; by default `0.8 / sqrt(d_model)`. Biases start at 0.
        seed: makes the initial weights repeatable without touching torch's global generator.
        dtype: of the parameters; a name such as "float32" is understood.

    Raises:
        ConfigError: a field is unknown, has the wrong type or an impossible value, or two fields contradict.
    """

    n_layers: int
    d_model: int
    n_ctx: int
    d_vocab: int
    d_vocab_out: int = DERIVED
    n_heads: int = DERIVED
    d_head: int = DERIVED
    n_key_value_heads: int = DERIVED
    attn_only: bool = False
    d_mlp: int = DERIVED
    act_fn: ActFn = "gelu"
    gated_mlp: bool = False
    normalization_type: NormType | None = "LN"
    norm_position: Literal["pre", "post", "both"] = "pre"
    eps: float = 1e-5
    embed_norm: bool = False
    first_ln1: bool = True
    positional_embedding_type: PositionType = "standard"
    rotary_base: float | tuple[float, ...] | None = None
    rotary_dim: int | None = None
    rotary_scaling: RotaryScaling | tuple[RotaryScaling | None, ...] | None = None
    relative_buckets: int | None = None
    relative_max_distance: int | None = None
    n_token_types: int = 0
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    attn_scale: float = DERIVED
    attn_implementation: Literal["eager", "sdpa"] = "eager"
    window_size: int | tuple[int | None, ...] | None = None
    attn_scores_soft_cap: float | None = None
    output_logits_soft_cap: float | None = None
    use_qk_norm: bool = False
    d_memory: int = 0
    parallel_attn_mlp: bool = False
    tie_word_embeddings: bool = False
    masked_token_head: bool = False
    pooling: Literal["mean", "cls", "pooler"] | None = None
    normalize_pooled: bool = False
    n_pooled_classes: int = 0
    embed_scale: float = 1.0
    init_std: float = DERIVED
    seed: int | None = None
    dtype: torch.dtype = torch.float32

    def __new__(cls, **given: Any) -> "TransformerConfig":
        """Refuse unknown and missing fields before the generated `__init__` does, and by name."""
        check_names(given, cls)
        return super().__new__(cls)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made as new configs are."""
        return self.from_dict, (self.to_dict(),)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), Integral) and not isinstance(value, bool):
                object.__setattr__(self, field.name, int(value))  # numpy's integers
        for name in ("rotary_base", "rotary_scaling", "window_size"):  # as JSON has them
            object.__setattr__(self, name, _from_json(getattr(self, name)))
        if isinstance(self.dtype, str):
            object.__setattr__(self, "dtype", torch_dtype(self.dtype))
        for name, value in self._derived().items():
            if getattr(self, name) is DERIVED:
                object.__setattr__(self, name, value)
        self._check_fields()
        check_combinations(self)

    def _derived(self) -> dict[str, Any]:
        heads, width = self.n_heads, self.d_head
        if heads is DERIVED and width is DERIVED:
            raise ConfigError("give n_heads, d_head or both: neither can be derived from the other fields")
        for name, value in (("d_model", self.d_model), ("n_heads", heads), ("d_head", width)):
            if (value is not DERIVED or name == "d_model") and not (fits(value, int) and value > 0):
                raise ConfigError(f"{name} = {describe(value)}; allowed: a positive integer")
        given, other = ("d_head", "n_heads") if heads is DERIVED else ("n_heads", "d_head")
        if (heads is DERIVED or width is DERIVED) and self.d_model % (divisor := heads or width):
            raise ConfigError(
                f"d_model = {self.d_model} is not a multiple of {given} = {divisor}; give {other} as well"
            )
        heads, width = heads or self.d_model // width, width or self.d_model // heads
        rotary, relative = (self.positional_embedding_type == kind for kind in ("rotary", "relative"))
        return {
            "d_vocab_out": self.d_vocab,
            "n_heads": heads,
            "d_head": width,
            "n_key_value_heads": heads,
            "d_mlp": 0 if self.attn_only else 4 * self.d_model,
            "attn_scale": math.sqrt(width),
            "init_std": 0.8 / math.sqrt(self.d_model),
            "rotary_base": 10_000.0 if rotary else None,
            "rotary_dim": width if rotary else None,
            "relative_buckets": 32 if relative else None,
            "relative_max_distance": 128 if relative else None,
        }

    def _check_fields(self) -> None:
        may_be_zero = {"n_layers", "d_mlp", "init_std", "seed", "d_vocab_out", "n_token_types", "d_memory"}
        may_be_zero |= {"n_pooled_classes"}
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not fits(value, hint):
                options = [a for a in alternatives(hint) if isinstance(a, str)]
                raise ConfigError(
                    f"{name} = {describe(value)}; allowed: {spell_all(hint)}{did_you_mean(str(value), options)}"
                )
            if isinstance(value, tuple) and len(value) != self.n_layers:
                raise ConfigError(f"{name} has {len(value)} values for n_layers = {self.n_layers}")
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    lowest_ok = number >= 0 if name in may_be_zero else number > 0
                    if not (lowest_ok and math.isfinite(number)):
                        least = "zero or more" if name in may_be_zero else "more than zero"
                        raise ConfigError(f"{name} = {describe(value)}; allowed: {least}")

    def in_layer(self, value: Any, layer: int) -> Any:
        """The value in one layer of a field that may differ between layers."""
        return value[layer] if isinstance(value, tuple) else value

    @property
    def has_unembed(self) -> bool:
        """Whether there are logits."""
        return self.d_vocab_out > 0

    @property
    def predicts_other_things(self) -> bool:
        """Whether the logits are of other things than the tokens that go in."""
        return self.d_vocab_out != self.d_vocab

    @property
    def predicts_next_token(self) -> bool:
        """Whether the logits at a position are of the token that follows it."""
        return self.attention_dir == "causal" and not self.predicts_other_things

    @property
    def predicts_masked_tokens(self) -> bool:
        """Whether the logits at a position are of the token that stands there."""
        return self.masked_token_head and self.attention_dir == "bidirectional"

    @property
    def cross_attention(self) -> bool:
        """Whether blocks read a memory."""
        return self.d_memory > 0

    @property
    def norms_neurons(self) -> bool:
        """Whether a LayerNorm over the neurons follows the activation function."""
        return self.act_fn == "solu_ln" and not self.attn_only

    @property
    def norms_reads(self) -> bool:
        """Whether attention and MLP read through a norm."""
        return self.norm_position in ("pre", "both")

    @property
    def normalizes_stream(self) -> bool:
        """Whether the stream itself passes through norms (post-norm)."""
        return self.norm_position == "post" and self.normalization_type is not None

    @property
    def has_resid_mid(self) -> bool:
        """Whether a block has an MLP after its attention, and so a stream that only this reads."""
        return not (self.attn_only or self.parallel_attn_mlp)

    @property
    def has_position_vectors(self) -> bool:
        """Whether positions are vectors, added to the stream or to what queries and keys read."""
        return self.positional_embedding_type not in ("rotary", "relative", "none")

    @property
    def positions_in_stream(self) -> bool:
        """Whether position vectors are written to the stream."""
        return self.has_position_vectors and self.positional_embedding_type != "shortformer"

    @property
    def n_params(self) -> ParameterCounts:
        """Numbers of parameters by component, and their `total`, computed without making any."""
        return count_parameters(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return dataclasses.asdict(self) | {"dtype": str(self.dtype).removeprefix("torch.")}

    def architecture(self) -> dict[str, Any]:
        """`to_dict` without what only the first weights depend on (`seed`, `init_std`)."""
        return {name: value for name, value in self.to_dict().items() if name not in ("seed", "init_std")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """The config with these fields, such as `to_dict` returns. Raises `ConfigError` as the constructor does."""
        check_by_name(values, cls)
        return cls(**values)

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "TransformerConfig":
        """The config whose `to_json` this is. Raises `ConfigError` as the constructor does."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"not JSON: {error}") from error
        return cls.from_dict(values)


def _from_json(value: Any) -> Any:
    """Tuples and `RotaryScaling`s from the lists and objects that JSON makes of them."""
    if isinstance(value, list | tuple):
        return tuple(_from_json(item) for item in value)
    if isinstance(value, dict):
        try:
            return RotaryScaling(**value)
        except TypeError as error:
            raise ConfigError(f"rotary_scaling = {describe(value)}: {error}") from error
    return value
