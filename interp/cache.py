"""ActivationCache: what one run left at its hook points, and the algebra of the residual stream.

The stream is a sum of *writes*: token and position embeddings, every head, every MLP (or neuron), and biases. The
methods here return those writes as a `Stack` whose rows sum exactly to the stream they decompose. In post-norm models,
where the stream itself passes through norms, every earlier write is carried through each norm at the scale that the
norm had in this run (a norm at a fixed scale is linear), and the norms' biases join the row "bias". Where the run was
edited by hooks, a row "edits" holds what the edits added.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.components import PER_HEAD, Norm
from interp.errors import CheckpointError, ConfigError, HookNotFoundError, ShapeError, did_you_mean
from interp.files import atomic_path
from interp.hooks import HookName, resolve
from interp.tokens import check_tokens

if TYPE_CHECKING:
    from interp.model import HookedTransformer

Answer = int | str | Int[Tensor, "batch"] | Int[Tensor, "batch pos"]
"""Tokens whose logits are asked for: one for all, one a sequence, or one a position."""


class Stack(NamedTuple):
    """Named vectors in the residual stream: `values[i]` belongs to `labels[i]`."""

    values: Float[Tensor, "component batch pos d_model"]
    labels: list[str]


class LogitAttribution(NamedTuple):
    """How much each component adds to a logit (or a logit difference): `values[i]` belongs to `labels[i]`."""

    values: Float[Tensor, "component batch pos"]
    labels: list[str]


class ActivationCache(Mapping[str, Tensor]):
    """Activations by name: `cache["blocks.0.attn.hook_z"]`, `cache["z", 0]`, `cache["z", -1]`.

    Attributes:
        model: the model that ran; decompositions read its weights, and refuse if these changed since.
        edited: whether hooks that may edit were active in the run.
    """

    def __init__(self, activations: Mapping[str, Tensor], model: "HookedTransformer", edited: bool = False):
        self._values = dict(activations)
        self.model, self.cfg, self.edited = model, model.cfg, edited
        self._weights_version = _version(model)

    # ------------------------------------------------------------------ a mapping

    def __getitem__(self, name: HookName) -> Tensor:
        found = resolve(name, list(self._values), self.cfg.n_layers)
        if len(found) > 1:
            raise HookNotFoundError(f"{name!r} fits {len(found)} cached activations: {', '.join(found[:4])} ...")
        return self._values[found[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        size = sum({v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in self.values()}.values())
        return f"ActivationCache({len(self)} activations, {size / 1e6:.1f} MB)"

    # ------------------------------------------------------------------ moving, slicing, files

    def _with(self, activations: Mapping[str, Tensor]) -> "ActivationCache":
        twin = ActivationCache(activations, self.model, self.edited)
        twin._weights_version = self._weights_version
        return twin

    def to(self, device: str | torch.device) -> "ActivationCache":
        """A cache with every tensor on `device`."""
        return self._with({name: value.to(device) for name, value in self.items()})

    def slice(
        self,
        batch: int | slice | Sequence[int] | None = None,
        pos: int | slice | Sequence[int] | None = None,
    ) -> "ActivationCache":
        """A cache of some sequences and positions; axes stay, so an int leaves an axis of size 1.

        Scores and patterns are cut along their query positions. Raises `ShapeError` for an index out of range.
        """

        def cut(name: str, value: Tensor) -> Tensor:
            axis = self.model.hook_points[name.removesuffix("_grad")].pos_axis
            return _select(_select(value, 0, batch, "batch"), axis, pos, "pos")

        return self._with({name: cut(name, value) for name, value in self.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all activations to one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        about = {
            "kind": "interp.ActivationCache",
            "config": self.cfg.to_json(),
            "names": json.dumps(list(self)),
            "edited": json.dumps(self.edited),
        }
        with atomic_path(path) as file:
            save_file({n: v.contiguous().clone() for n, v in self.items()}, file, metadata=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: "HookedTransformer") -> "ActivationCache":
        """The cache that `save` wrote, bit for bit, on the model's device.

        Raises `CheckpointError` for a file that is no such cache, or was made by a model of another configuration.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt", device=str(model.W_E.device)) as file:
                about = file.metadata() or {}
                if about.get("kind") != "interp.ActivationCache":
                    raise CheckpointError(f"{path} is a safetensors file, but not a saved ActivationCache")
                values = {name: file.get_tensor(name) for name in json.loads(about["names"])}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read as a saved ActivationCache: {error}") from error
        theirs, ours = json.loads(about["config"]), model.cfg.to_dict()
        if differing := [k for k in ours if theirs.get(k) != ours[k] and k not in ("seed", "init_std")]:
            values_of = ", ".join(f"{k} = {theirs.get(k)!r} (here {ours[k]!r})" for k in differing)
            raise CheckpointError(f"{path} was made by another model: {values_of}")
        return cls(values, model, json.loads(about["edited"]))

    # ------------------------------------------------------------------ the residual stream as a sum

    def decompose_resid(self, layer: int | None = None, mlp_input: bool = False, apply_ln: bool = False) -> Stack:
        """Embeddings and the write of every attention and MLP below `layer`, which sum to `resid_pre` there.

        Args:
            layer: 0 to n_layers, negative from the end; None for the stream that the unembedding reads.
            mlp_input: go on to `resid_mid` of `layer`, what its MLP reads.
            apply_ln: through the norm that reads the stream there, see `apply_ln_to_stack`.

        Raises:
            ConfigError: a layer out of range, or `mlp_input` where there is no `resid_mid`.
            HookNotFoundError: a needed activation is not in the cache.
        """
        return self._decompose(layer, mlp_input, apply_ln, heads=False, neurons=False)

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
    ) -> Stack:
        """Embeddings, every head ("L0H1"), every neuron ("L0N7") or MLP ("0_mlp_out"), and "bias": all biases together.

        Arguments and errors as for `decompose_resid`. Neurons need batch * pos * d_mlp * d_model numbers a layer.
        """
        return self._decompose(layer, mlp_input, apply_ln, heads=True, neurons=expand_neurons)

    @torch.no_grad()
    def accumulated_resid(self, layer: int | None = None, incl_mid: bool = False, apply_ln: bool = False) -> Stack:
        """The stream itself before each block ("0_pre", with `incl_mid` also "0_mid"), the last row being at `layer`.

        With `apply_ln` every row goes through the final norm with statistics of its own, as the logit lens reads it
        (nostalgebraist 2020). Errors as for `decompose_resid`.
        """
        stop = self._layer(layer)
        has_mid = not (self.cfg.attn_only or self.cfg.parallel_attn_mlp)
        if incl_mid and not has_mid:
            raise ConfigError("incl_mid = True, but blocks without or beside their MLP have no resid_mid")
        rows, labels = [], []
        for block in range(stop):
            rows.append(self._get(f"blocks.{block}.hook_resid_pre"))
            labels.append(f"{block}_pre")
            if incl_mid:
                rows.append(self._get(f"blocks.{block}.hook_resid_mid"))
                labels.append(f"{block}_mid")
        rows.append(self._stream(stop, mlp_input=False))
        labels.append("final_post" if stop == self.cfg.n_layers else f"{stop}_pre")
        stack = torch.stack(rows)
        return Stack(self.model.ln_final.unhooked(stack) if apply_ln else stack, labels)

    def stack_head_results(self, layer: int | None = None, apply_ln: bool = False) -> Stack:
        """What every head below `layer` wrote ("L0H0", "L0H1", ...), carried to `layer`. Errors as there."""
        return self._only("H", self._decompose(layer, False, apply_ln, heads=True, neurons=False))

    def stack_neuron_results(self, layer: int | None = None, apply_ln: bool = False) -> Stack:
        """What every neuron below `layer` wrote ("L0N0", ...), carried to `layer`. Errors as there."""
        if self.cfg.attn_only:
            raise ConfigError("attn_only = True: this model has no neurons")
        return self._only("N", self._decompose(layer, False, apply_ln, heads=False, neurons=True))

    @torch.no_grad()
    def apply_ln_to_stack(self, stack: Stack, layer: int | None = None, mlp_input: bool = False) -> Stack:
        """Components as the norm at `layer` passes them on, at the scale it had in this run; its bias is a last row.

        The rows of a complete decomposition then sum to `hook_normalized`. The norm is ln1 of `layer`, with
        `mlp_input` ln2, for None or n_layers the final one; where the stream is read as it is (post-norm, no norm)
        nothing changes.
        """
        stop = self._layer(layer)
        if stop == self.cfg.n_layers and not mlp_input:
            name, norm = "ln_final", self.model.ln_final
        else:
            if mlp_input and (self.cfg.attn_only or stop == self.cfg.n_layers):
                raise ConfigError(f"layer = {layer} has no MLP, so mlp_input = True names no norm")
            name = f"blocks.{stop}.{'ln2' if mlp_input else 'ln1'}"
            norm = cast(Norm, self.model.get_submodule(name))
        if norm.kind is None or (self.cfg.norm_position == "post"):
            return stack
        values, labels = norm.at_scale(stack.values, self._get(f"{name}.hook_scale")), list(stack.labels)
        if norm.b is not None:
            values = torch.cat([values, norm.b.expand(values[:1].shape)])
            labels.append(f"{name}_bias")
        return Stack(values, labels)

    # ------------------------------------------------------------------ logits

    @torch.no_grad()
    def logit_attrs(self, stack: Stack, tokens: Answer, incorrect_tokens: Answer | None = None) -> LogitAttribution:
        """How much each component of a final-stream decomposition adds to the logits of `tokens`.

        With `incorrect_tokens`, to the difference of the two logits. Norms need not be folded: components pass the
        final norm at its scale in this run, gain included, its bias and `b_U` are the rows "ln_final_bias" and
        "unembed_bias", and all rows of a complete decomposition sum to the logit (before any soft cap).

        Raises:
            TokenError: a token out of range, or text without a tokenizer or of several tokens.
            ShapeError: answers of another shape than one, [batch] or [batch, pos].
        """
        read = self.apply_ln_to_stack(stack)
        shape = read.values.shape[1:3]
        chosen = self._answers(tokens, shape)
        directions, offset = self.model.W_U.T[chosen], self.model.b_U[chosen]
        if incorrect_tokens is not None:
            others = self._answers(incorrect_tokens, shape)
            directions, offset = directions - self.model.W_U.T[others], offset - self.model.b_U[others]
        values = einsum(read.values, directions, "row batch pos d_model, batch pos d_model -> row batch pos")
        return LogitAttribution(torch.cat([values, offset[None]]), [*read.labels, "unembed_bias"])

    def _answers(self, tokens: Answer, shape: torch.Size) -> Int[Tensor, "batch pos"]:
        device = self.model.W_U.device
        ids = torch.tensor(self.model.to_single_token(tokens) if isinstance(tokens, str) else tokens, device=device) \
            if not isinstance(tokens, Tensor) else tokens.to(device)  # fmt: skip
        aligned = ids[:, None] if ids.ndim == 1 else ids
        if ids.ndim > 2 or any(n not in (1, m) for n, m in zip(aligned.shape, shape, strict=False)):
            raise ShapeError(
                f"answers have shape {tuple(ids.shape)}; allowed: one token, [batch] or [batch, pos] = {tuple(shape)}"
            )
        return check_tokens(aligned.expand(shape), self.cfg.d_vocab, shape[1], device)

    # ------------------------------------------------------------------ the walk along the stream

    @torch.no_grad()
    def _decompose(self, layer: int | None, mlp_input: bool, apply_ln: bool, heads: bool, neurons: bool) -> Stack:
        """All writes up to a place, in order, with heads and neurons apart or together."""
        stop = self._layer(layer)
        if mlp_input and (self.cfg.attn_only or self.cfg.parallel_attn_mlp or stop == self.cfg.n_layers):
            raise ConfigError(f"mlp_input = True, but layer = {layer} has no resid_mid (no MLP after its attention)")
        rows: list[Tensor] = [self._get("hook_embed")[None]]
        labels = ["embed"]
        if self.cfg.positional_embedding_type in ("standard", "onehot", "sinusoidal"):
            rows.append(self._get("hook_pos_embed")[None])
            labels.append("pos_embed")
        bias = torch.zeros_like(rows[0])
        post_norm = self.cfg.norm_position == "post" and self.cfg.normalization_type is not None

        def add(values: Tensor, names: list[str], constant: Tensor | None = None) -> None:
            nonlocal bias
            rows.append(values)
            labels.extend(names)
            bias = bias if constant is None else bias + constant

        def carry(norm: Norm, name: str) -> None:
            nonlocal bias
            scale = self._get(f"{name}.hook_scale")
            rows[:] = [norm.at_scale(row, scale) for row in rows]
            bias = norm.at_scale(bias, scale) + (0 if norm.b is None else norm.b)

        for i, block in enumerate(self.model.blocks[: stop + mlp_input]):
            add(*self._attn_writes(i, heads))
            if post_norm:
                carry(block.ln1, f"blocks.{i}.ln1")
            if self.cfg.attn_only or (mlp_input and i == stop):
                continue
            add(*self._mlp_writes(i, neurons))
            if post_norm:
                carry(block.ln2, f"blocks.{i}.ln2")

        if heads or neurons or post_norm:
            add(bias, ["bias"])
        if self.edited:
            add((self._stream(stop, mlp_input) - torch.cat(rows).sum(dim=0))[None], ["edits"])
        stack = Stack(torch.cat(rows), labels)
        return self.apply_ln_to_stack(stack, layer, mlp_input) if apply_ln else stack

    def _attn_writes(self, i: int, heads: bool) -> tuple[Tensor, list[str], Tensor | None]:
        """Rows, their labels, and the bias that is not in the rows."""
        if not heads:
            return self._get(f"blocks.{i}.hook_attn_out")[None], [f"{i}_attn_out"], None
        attn = self.model.blocks[i].attn
        name = f"blocks.{i}.attn.hook_result"
        cached = self._values.get(name)
        result = einsum(self._get(f"blocks.{i}.attn.hook_z"), attn.W_O, PER_HEAD) if cached is None else cached
        return result.permute(2, 0, 1, 3), [f"L{i}H{h}" for h in range(self.cfg.n_heads)], attn.b_O

    def _mlp_writes(self, i: int, neurons: bool) -> tuple[Tensor, list[str], Tensor | None]:
        if not neurons:
            return self._get(f"blocks.{i}.hook_mlp_out")[None], [f"{i}_mlp_out"], None
        mlp = self.model.blocks[i].mlp
        post = self._get(f"blocks.{i}.mlp.hook_post")
        written = post.permute(2, 0, 1)[..., None] * mlp.W_out[:, None, None, :]
        return written, [f"L{i}N{n}" for n in range(self.cfg.d_mlp)], mlp.b_out

    def _stream(self, stop: int, mlp_input: bool) -> Tensor:
        if mlp_input:
            return self._get(f"blocks.{stop}.hook_resid_mid")
        if stop < self.cfg.n_layers:
            return self._get(f"blocks.{stop}.hook_resid_pre")
        if stop:
            return self._get(f"blocks.{stop - 1}.hook_resid_post")
        return self.decompose_resid().values.sum(dim=0)  # no blocks: the embeddings are the stream

    def _get(self, name: str) -> Tensor:
        """A needed activation; the weights that go with it must still be those of the run."""
        if _version(self.model) != self._weights_version:
            raise ShapeError("the model's weights changed after this cache was made, so they no longer belong together")
        if name not in self._values:
            raise HookNotFoundError(
                f"this needs {name!r}, which the cache does not hold; widen names_filter= (or stop_at_layer=)"
                f"{did_you_mean(name, self._values, 0.8)}"
            )
        return self._values[name]

    def _layer(self, layer: int | None) -> int:
        n = self.cfg.n_layers
        if layer is None:
            return n
        if not -n <= layer <= n:
            raise ConfigError(f"layer = {layer}; allowed: {-n} to {n} ({n} layers), or None for the final stream")
        return layer + n * (layer < 0)

    @staticmethod
    def _only(kind: str, stack: Stack) -> Stack:
        chosen = [n for n, label in enumerate(stack.labels) if label.startswith("L") and kind in label]
        return Stack(stack.values[chosen], [stack.labels[n] for n in chosen])


def _version(model: "HookedTransformer") -> int:
    """A number that grows whenever a weight is written to."""
    return sum(p._version for p in model.parameters() if not p.is_inference())


def _select(value: Tensor, axis: int, index: int | slice | Sequence[int] | None, what: str) -> Tensor:
    """Some entries along an axis, which stays."""
    if index is None:
        return value
    size = value.shape[axis]
    wanted = [index] if isinstance(index, int) else index
    if isinstance(wanted, slice):
        chosen = list(range(size))[wanted]
    else:
        if bad := [i for i in wanted if not -size <= i < size]:
            raise ShapeError(f"{what} {bad[0]} is out of range; allowed: {-size} to {size - 1}")
        chosen = [i % size for i in wanted]
    if not chosen:
        raise ShapeError(f"{what} = {index!r} selects nothing of {size}")
    if chosen == list(range(chosen[0], chosen[0] + len(chosen))):
        return value.narrow(axis, chosen[0], len(chosen))
    return value.index_select(axis, torch.tensor(chosen, device=value.device))
