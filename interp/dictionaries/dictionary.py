"""A sparse autoencoder or transcoder: encoder, decoder, and how it takes part in a run of a model."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.dictionaries.files import names_of, read_dictionary
from interp.errors import ConfigError, ShapeError, check_choice, describe
from interp.indices import is_index
from interp.interventions import Apply

FeatureEdit = Mapping[int, float] | Callable[[Tensor], Tensor]
"""New activations of features: a value for each feature that is set, at all positions, or a function of all of them,
[..., feature], to a tensor of the same shape."""

Activation = Literal["relu", "jumprelu", "topk", "gated"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
EPS = 1e-5
"""Added to the standard deviation by "layer_norm"."""


class SparseDictionary(nn.Module):
    """Writes an activation as a sum of few of many directions, its features, and a bias (Cunningham et al. 2023).

        features = act((x - b_dec) W_enc + b_enc),    x is about features W_dec + b_dec

    Called as a function it gives this approximation, with the dtype of `x`. A transcoder approximates another
    activation than the one that it reads (Dunefsky et al. 2024).

    Args:
        weights: `W_enc` [d_in, feature], `b_enc` [feature], `W_dec` [feature, d_out], `b_dec` [d_out]; "jumprelu" has
            `threshold` [feature] as well, and "gated" has `b_gate`, `r_mag` and `b_mag` [feature] in place of `b_enc`.
        activation: "relu"; "jumprelu", `x` where it is above a threshold of its own and above 0, else 0 (Rajamanoharan
            et al. 2024); "topk", the `k` largest, as far as they are above 0 (Gao et al. 2024); "gated", where
            `x W_enc + b_gate` decides whether a feature is active and `x (W_enc e^r_mag) + b_mag` how strongly.
        k: how many features are active at most, for "topk".
        apply_b_dec_to_input: whether `b_dec` is taken off what is read.
        normalize_activations: "layer_norm" takes the mean off what is read and divides it by its standard deviation,
            "constant_norm_rescale" makes its length sqrt(d_in); what is written is scaled back.
        flattens_heads: it reads and writes [..., head, d_head] (`z`) as [..., head * d_head].
        hook_name: the hook point that it reads.
        hook_name_out: the one that it writes, of the same layer; None for the same.
        about: what else its file says: which model, which data.

    Raises:
        ConfigError: an option is none of those allowed, or two contradict.
        ShapeError: a weight is missing, surplus, or of another shape than the others say.
    """

    W_enc: Float[Tensor, "d_in feature"]
    b_enc: Float[Tensor, "feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, "d_out"]
    threshold: Float[Tensor, "feature"]
    b_gate: Float[Tensor, "feature"]
    r_mag: Float[Tensor, "feature"]
    b_mag: Float[Tensor, "feature"]

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        activation: Activation = "relu",
        *,
        k: int | None = None,
        apply_b_dec_to_input: bool = True,
        normalize_activations: Normalization = "none",
        flattens_heads: bool = False,
        hook_name: str | None = None,
        hook_name_out: str | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_choice("activation", activation, get_args(Activation))
        check_choice("normalize_activations", normalize_activations, get_args(Normalization))
        _check_weights(weights, activation)
        self.d_in, self.n_features = weights["W_enc"].shape
        self.d_out = weights["W_dec"].shape[1]
        if (k is not None) != (activation == "topk") or (k is not None and not 0 < k <= self.n_features):
            raise ConfigError(f"k = {describe(k)} with activation = {activation!r}; allowed: None, or with 'topk' 1 to "
                              f"{self.n_features}")  # fmt: skip
        if self.d_out != self.d_in and (apply_b_dec_to_input or normalize_activations != "none"):
            raise ConfigError(f"d_out = {self.d_out} is not d_in = {self.d_in}: what is taken off what is read cannot "
                              "be given back; say apply_b_dec_to_input=False and no normalisation")  # fmt: skip
        for name, tensor in weights.items():
            self.register_parameter(name, nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad))
        self.activation, self.k, self.apply_b_dec_to_input = activation, k, apply_b_dec_to_input
        self.normalize_activations, self.flattens_heads = normalize_activations, flattens_heads
        self.hook_name, self.hook_name_out = hook_name, hook_name_out
        self.about = dict(about or {})

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "SparseDictionary":
        """The dictionary in a folder as SAELens writes it: `cfg.json`, and `sae_weights.safetensors`.

        Args:
            folder: of the two files.
            dtype: of the weights; None for that of the file. Features are computed in it.
            device: where they live.

        Raises `CheckpointError` naming the file with the key that this package does not compute, or the tensor that is
        missing, surplus or of another shape. Pickled weights are never loaded.
        """
        found = read_dictionary(folder, dtype, device)
        return cls(found.weights, **found.options, about=found.about)

    def extra_repr(self) -> str:
        """For `print`."""
        where = self.hook_name if self.hook_name_out is None else f"{self.hook_name} -> {self.hook_name_out}"
        return f"{self.n_features} features of {self.d_in}, {self.activation}, {where}"

    # ------------------------------------------------------------------ arithmetic

    def encode(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*rows feature"]:
        """How active each feature is: of [..., d_in], or of [..., head, d_head] where heads are flattened.

        Raises `ShapeError` for another width.
        """
        read = self._normalized(self._flat(x))
        read = read - self.b_dec if self.apply_b_dec_to_input else read
        products = read @ self.W_enc
        if self.activation == "gated":
            strength = read @ (self.W_enc * self.r_mag.exp()) + self.b_mag
            return strength.relu() * (products + self.b_gate > 0)
        before = products + self.b_enc
        if self.activation == "jumprelu":
            return before.relu() * (before > self.threshold)
        if self.k is not None:
            values, places = before.topk(self.k, dim=-1)
            return torch.zeros_like(before).scatter(-1, places, values.relu())
        return before.relu()

    def decode(self, features: Float[Tensor, "*rows feature"], x: Float[Tensor, "*axes"]) -> Float[Tensor, "*written"]:
        """What activations of features stand for, beside the `x` that they are of.

        The shape, the dtype, and the scale where activations are normalised, are those of `x`. A transcoder writes
        [..., d_out].
        """
        written = features.to(self.W_dec.dtype) @ self.W_dec + self.b_dec
        if self.normalize_activations != "none":
            mean, scale = self._moments(self._flat(x))
            written = written * scale + mean
        written = written.unflatten(-1, x.shape[-2:]) if self.flattens_heads else written
        return written.to(x.dtype)

    def forward(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*written"]:
        """The approximation: `decode(encode(x), x)`."""
        return self.decode(self.encode(x), x)

    def _flat(self, x: Tensor) -> Tensor:
        rows = x.flatten(-2) if self.flattens_heads and x.ndim > 1 else x
        if rows.shape[-1:] != (self.d_in,):
            heads = "[..., head, d_head] with head * d_head" if self.flattens_heads else "[..., d_in] with d_in"
            raise ShapeError(f"this dictionary reads {heads} = {self.d_in}, not a tensor of shape {tuple(x.shape)}")
        return rows.to(self.W_enc.dtype)

    def _normalized(self, rows: Tensor) -> Tensor:
        if self.normalize_activations == "none":
            return rows
        mean, scale = self._moments(rows)
        return (rows - mean) / (scale + EPS if self.normalize_activations == "layer_norm" else scale)

    def _moments(self, rows: Tensor) -> tuple[Tensor | float, Tensor]:
        """What normalisation takes off, and what it divides by (the standard deviation is that of a sample)."""
        if self.normalize_activations == "layer_norm":
            return rows.mean(-1, keepdim=True), rows.std(-1, keepdim=True)
        return 0.0, rows.norm(dim=-1, keepdim=True) / self.d_in**0.5

    # ------------------------------------------------------------------ in a run

    def edited(self, features: FeatureEdit) -> "Edited":
        """The dictionary with other activations of some features, as a function of `x`.

            dictionary.edited({7: 0.0, 9: 5.0})                      # feature 7 is ablated, feature 9 always at 5
            dictionary.edited(lambda features: 2 * features)         # any function of [..., feature]

        Raises `ConfigError` for a feature that is not there.
        """
        return Edited(self, features)

    def splice(self, features: FeatureEdit | None = None, *, error: bool = True, **place: Any) -> Apply:
        """The dictionary in the place of the activation that it was trained on, as an intervention.

            with model.intervene(dictionary.splice({7: 0.0}, pos=-1)):
                logits = model(text)

        Args:
            features: other activations of some features, see `edited`; None for those that it finds.
            error: add what the dictionary leaves out of the activation. Without an edit the run is then the same to the
                last bit (gradients flow through the dictionary), and with one it differs by what the edit changes.
                False leaves the approximation alone.
            place: other words of an address than site and layer, such as `pos=`; or `site=` and `layer=` in place of
                `hook_name`.

        A direction is added without any of this by `Steer(dictionary.W_dec[7], scale=4.0, site=..., layer=...)`.

        Raises `ConfigError` where it is not known which site of which layer the dictionary is of.
        """
        fn = self if features is None else self.edited(features)
        read, written = self.hook_name, self.hook_name_out or self.hook_name
        if written is not None and "site" not in place:
            site, layer = _site_and_layer(written)
            place = {"site": site, "layer": layer} | place
        if self.hook_name_out is not None and read is not None and "reads" not in place:
            reads, layer = _site_and_layer(read)
            if layer != place.get("layer"):
                raise ConfigError(f"it reads {read} and writes {written}: an intervention reads and writes one layer")
            place["reads"] = reads
        if "site" not in place:
            raise ConfigError("this dictionary has no hook_name; say where it belongs: site='resid_pre', layer=8")
        return Apply(fn, error_of=self if error else None, **place)


class Edited(nn.Module):
    """A dictionary with other activations of some features; see `SparseDictionary.edited`."""

    def __init__(self, dictionary: SparseDictionary, features: FeatureEdit):
        super().__init__()
        if not callable(features):
            n = dictionary.n_features
            if not isinstance(features, Mapping):
                raise ConfigError(f"features = {describe(features)}; allowed: a value for each feature that is set, as "
                                  "{7: 0.0} has, or a function of all features")  # fmt: skip
            for feature, value in features.items():
                if not is_index(feature) or not 0 <= feature < n:
                    raise ConfigError(f"feature {describe(feature)} is not there; allowed: 0 to {n - 1}")
                if not hasattr(value, "__float__") or getattr(value, "ndim", 0):
                    raise ConfigError(f"feature {feature}: {describe(value)} is no activation, which is a number")
        self.dictionary, self.features = dictionary, features if callable(features) else dict(features)

    def forward(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*written"]:
        """What the edited features stand for. Raises `ShapeError` for a function that changes their shape."""
        found = self.dictionary.encode(x)
        if callable(self.features):
            edited = self.features(found.clone())
            if not isinstance(edited, Tensor) or edited.shape != found.shape:
                made = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
                raise ShapeError(f"an edit of features [..., feature] = {tuple(found.shape)} must keep this shape; it "
                                 f"made {made}")  # fmt: skip
        else:
            edited = found.clone()
            for feature, value in self.features.items():
                edited[..., feature] = float(value)
        return self.dictionary.decode(edited, x)


def _check_weights(weights: Mapping[str, Tensor], activation: Activation) -> None:
    """Raise `ShapeError` unless these are the weights of such a dictionary, in one dtype."""
    names = names_of(activation)
    for name in (*weights, *names):
        if name not in weights or name not in names:
            problem = "is missing" if name in names else "is not part of it"
            raise ShapeError(
                f"a dictionary with activation = {activation!r} has {', '.join(names)}; {name!r} {problem}"
            )
    W_enc, W_dec = weights["W_enc"], weights["W_dec"]
    if W_enc.ndim != 2 or W_dec.ndim != 2 or len(W_dec) != W_enc.shape[1]:
        raise ShapeError(f"W_enc [d_in, feature] and W_dec [feature, d_out] have shapes {tuple(W_enc.shape)} and "
                         f"{tuple(W_dec.shape)}")  # fmt: skip
    shapes = dict.fromkeys(names[3:], (W_enc.shape[1],)) | {"b_dec": (W_dec.shape[1],)}
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ShapeError(f"{name} has shape {tuple(weights[name].shape)}; W_enc and W_dec say {shape}")
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) > 1 or not min(dtypes, key=str).is_floating_point:
        raise ShapeError(f"the weights have dtypes {', '.join(sorted(map(str, dtypes)))}; one is needed, of floats")


def _site_and_layer(hook_name: str) -> tuple[str | tuple[str, str], int]:
    """The words of an address for a full name, such as `blocks.3.attn.hook_z`."""
    words = hook_name.split(".")
    blocks, layer, point = words[0], words[1] if len(words) > 2 else "", words[-1].removeprefix("hook_")
    if blocks != "blocks" or not layer.isdecimal() or len(words) > 4:
        raise ConfigError(f"hook_name = {hook_name!r} is no point of a layer, such as 'blocks.8.hook_resid_pre'; say "
                          "site= and layer=, or write a hook of your own")  # fmt: skip
    return (point if len(words) == 3 else (point, words[2])), int(layer)
