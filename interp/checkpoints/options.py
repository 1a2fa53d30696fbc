"""Reading a transformers `config.json` key by key: nothing is guessed, and every refusal names the key."""

from collections.abc import Mapping, Sequence
from typing import Any

from interp.config import ActFn, RotaryScaling, TransformerConfig
from interp.errors import CheckpointError, did_you_mean

REQUIRED: Any = object()
"""The default of a key that must be given."""

ACTIVATIONS: dict[str, ActFn] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_fast",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
    "swish": "silu",
}
"""Transformers' names of activation functions; three are spellings of the same tanh approximation."""

ROPE_KEYS = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
"""The kinds of rotary scaling that we compute, with the keys they use."""

LAYER_TYPES = ("full_attention", "sliding_attention")


class Options:
    """The keys and values of a `config.json`, which remembers the keys that it was asked for.

    Every method raises `CheckpointError`, naming the key, for a value that this package cannot compute with.

    Attributes:
        values: the values by key.
        tensors: the shape of each tensor of the checkpoint, by the name that it has in a model with a head. What a
            configuration does not say is read off them: whether there is a pooler, and which heads there are. Empty
            where no checkpoint is read.
        asked: the keys that were asked for so far. `refuse_misspelt` compares all other keys with them.
    """

    def __init__(self, values: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]] | None = None):
        self.values = dict(values)
        self.tensors = dict(tensors or {})
        self.asked: set[str] = set()

    def over(self, defaults: Mapping[str, Any]) -> "Options":
        """These options with default values for the keys that are absent; see `replaced`."""
        return self.replaced({**defaults, **self.values})

    def replaced(self, values: Mapping[str, Any]) -> "Options":
        """These options with other values for some keys.

        Both share one record of what was asked: a key that the result is asked for counts as asked for here as well.
        """
        whole = Options({**self.values, **values}, self.tensors)
        whole.asked = self.asked
        return whole

    def refuse_misspelt(self) -> None:
        """Raise if a key that nobody asked for looks like a misspelling of one that was asked for.

        All other unknown keys are left alone, as transformers leaves them: published configurations hold many notes.
        """
        for name in self.values:
            if name not in self.asked and not name.startswith("_") and (near := did_you_mean(name, self.asked, 0.9)):
                raise CheckpointError(f"{name!r} is no key of this configuration{near}")

    def get(self, name: str, kind: type, default: Any = REQUIRED) -> Any:
        """The value of a key: `default` if the key is absent, and None if its value is null."""
        self.asked.add(name)
        value = self.values.get(name, default)
        if value is REQUIRED:
            raise CheckpointError(
                f"{name!r} is missing{did_you_mean(name, self.values, 0.8)} (model_type is not 'interp', so this is "
                f"read as the configuration of a transformers model)"
            )
        if value is None:
            return None
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        fits = numeric and (kind is float or isinstance(value, int)) if kind in (int, float) else None
        if not (isinstance(value, kind) if fits is None else fits):
            raise CheckpointError(f"{name} = {value!r} is not of type {kind.__name__}")
        return float(value) if kind is float else value

    def size(self, name: str, default: Any = REQUIRED) -> int:
        """A positive integer."""
        value = self.get(name, int, default)
        if value is None or value <= 0:
            raise CheckpointError(f"{name} = {value!r}; allowed: a positive integer")
        return value

    def stop_token(self) -> int | None:
        """The token that ends a text, or None."""
        self.asked.add("bos_token_id")  # which is spelt almost alike
        given = self.get("eos_token_id", object, None)
        given = given[0] if isinstance(given, list) and len(given) == 1 else given
        if given is not None and (not isinstance(given, int) or isinstance(given, bool)):
            raise CheckpointError(f"eos_token_id = {given!r}; allowed: one token, or null")
        return given

    def refuse_unless(self, name: str, *allowed: Any) -> None:
        """Raise unless the key is absent, is null, or has one of the allowed values.

        It is for keys that this package does not read: with the allowed values the model computes what it would compute
        without the key.
        """
        self.asked.add(name)
        value = self.values.get(name)
        if value is not None and value not in allowed:
            spelt = " or ".join(map(repr, allowed)) or "leaving it out"
            raise CheckpointError(f"{name} = {value!r} is not supported; allowed: {spelt}")

    def activation(self, name: str, default: Any = REQUIRED) -> ActFn:
        """The `act_fn` of a config for the activation function that a key names in transformers' words."""
        value = self.get(name, str, default)
        if value not in ACTIVATIONS:
            near = did_you_mean(str(value), ACTIVATIONS)
            raise CheckpointError(f"{name} = {value!r} is not supported; allowed: {', '.join(ACTIVATIONS)}{near}")
        return ACTIVATIONS[value]

    def rope(self) -> dict[str, Any]:
        """The dictionary of rotary parameters: `rope_parameters` (transformers 5), or `rope_scaling` (before that)."""
        new, old = self.get("rope_parameters", dict, None), self.get("rope_scaling", dict, None)
        if new and old and new != old:
            raise CheckpointError(f"rope_parameters = {new} contradicts rope_scaling = {old}; one of them is needed")
        return new or old or {}

    def rotary(self, theta_key: str = "rope_theta", theta: float = 10_000.0) -> tuple[float, RotaryScaling | None]:
        """The rotary base and the scaling of its frequencies.

        They are in `rope_parameters` since transformers 5; before that, the base was the value of `theta_key`.
        """
        return self.rotary_of(self.rope(), self.get(theta_key, float, None) or theta)

    def rotary_of(self, given: Mapping[str, Any], theta: float) -> tuple[float, RotaryScaling | None]:
        """The rotary base and scaling in a dictionary of rotary parameters; `theta` is the base if it names none."""
        kind = given.get("rope_type") or given.get("type") or "default"
        if kind not in ROPE_KEYS:
            raise CheckpointError(f"rope_type = {kind!r} is not supported; allowed: {', '.join(ROPE_KEYS)}"
                                  f"{did_you_mean(str(kind), ROPE_KEYS)}")  # fmt: skip
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}.union(*ROPE_KEYS.values())
        for name in given:
            if name not in known:
                raise CheckpointError(f"rotary parameter {name!r} is not supported{did_you_mean(name, known)}")
        rope = Options(given)
        base = rope.get("rope_theta", float, None) or theta
        if kind == "default":
            return base, None
        if kind == "linear":
            return base, RotaryScaling(kind="linear", factor=rope.get("factor", float))
        trained = self.get("original_max_position_embeddings", int, None)
        trained = trained or rope.get("original_max_position_embeddings", int, None)
        return base, RotaryScaling(
            kind="llama3",
            factor=rope.get("factor", float),
            low_freq_factor=rope.get("low_freq_factor", float),
            high_freq_factor=rope.get("high_freq_factor", float),
            original_n_ctx=trained or self.size("max_position_embeddings"),
        )

    def layer_types(self, default: Sequence[str]) -> Sequence[str]:
        """The kind of every layer, "full_attention" or "sliding_attention"."""
        given = self.get("layer_types", list, None)
        for kind in given or ():
            if kind not in LAYER_TYPES:
                raise CheckpointError(f"layer_types holds {kind!r}; allowed: {', '.join(LAYER_TYPES)}")
        return default if given is None else given

    def windows(self, kinds: Sequence[str]) -> int | tuple[int | None, ...] | None:
        """The window size of every layer with these `layer_types`: one value if all agree, else a tuple.

        In transformers, as here, a window of n positions counts the query's own position.
        """
        window = self.size("sliding_window") if "sliding_attention" in kinds else None
        return merged([window if kind == "sliding_attention" else None for kind in kinds])


def merged(values: Sequence[Any]) -> Any:
    """The values of all layers as a config holds them: one value if all agree, else a tuple, and None for no layers."""
    return None if not values else values[0] if all(value == values[0] for value in values) else tuple(values)


def rope_scaling(scaling: RotaryScaling | None) -> dict[str, Any] | None:
    """The `rope_scaling` of a `config.json`, from which `Options.rotary` reads this scaling."""
    if scaling is None:
        return None
    written = {"rope_type": scaling.kind, "factor": float(scaling.factor)}
    if scaling.kind == "linear":
        return written
    return written | {
        "low_freq_factor": float(scaling.low_freq_factor),
        "high_freq_factor": float(scaling.high_freq_factor),
        "original_max_position_embeddings": scaling.original_n_ctx,
    }


def per_layer(cfg: TransformerConfig, field: str) -> list[Any]:
    """The value in each layer of a field that may differ between layers."""
    return [cfg.in_layer(getattr(cfg, field), layer) for layer in range(cfg.n_layers)]


def first_value(values: Sequence[Any], default: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), default)


def layer_kinds(cfg: TransformerConfig) -> list[str]:
    """The `layer_types` of an architecture: whether each layer has a window."""
    full, sliding = LAYER_TYPES
    return [full if window is None else sliding for window in per_layer(cfg, "window_size")]


def first_of_kind(cfg: TransformerConfig, kind: str, field: str, default: Any) -> Any:
    """The first value, that is not None, of a field in the layers of one of `LAYER_TYPES`."""
    values = zip(per_layer(cfg, field), layer_kinds(cfg), strict=True)
    return first_value([value for value, of in values if of == kind], default)
