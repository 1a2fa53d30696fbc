"""`transformer_lens.patching`: patch a clean run's activations into a corrupted run, place by place.

Where the places are all of a layer, position or head, and nothing is hooked on the model, `interp.patching.sweep` does
it, which is faster and gives the same numbers up to rounding; else it is a loop over runs.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import interp
from interp.compat.transformer_lens.checks import ensure
from interp.compat.transformer_lens.utils import get_act_name
from interp.patching import sweep
from interp.progress import shown

if TYPE_CHECKING:
    import pandas as pd

Setter = Callable[[Tensor, list[int], Tensor], Tensor]
"""From a corrupted activation, the index of a place and the clean activation to the patched one."""

LogitMetric = Callable[[Tensor], Any]
"""From logits [batch, pos, d_vocab] to one number."""


def make_df_from_ranges(column_max_ranges: Sequence[int], column_names: Sequence[str]) -> "pd.DataFrame":
    """Every combination of indices below these, a row each, the last column changing first."""
    import pandas as pd

    return pd.DataFrame(list(itertools.product(*map(range, column_max_ranges))), columns=list(column_names))


@torch.no_grad()
def generic_activation_patch(
    model: Any,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: Any,
    patching_metric: LogitMetric,
    patch_setter: Setter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: "pd.DataFrame | None" = None,
    return_index_df: bool = False,
) -> Any:
    """The metric of a run for every index, each with one patch; with `return_index_df` (values, table of indices).

    `activation_name` is patched in the layer that an index begins with. Indices are all of the axes `index_axis_names`
    ("layer", "pos", "head" or "head_index", "src_pos", "dest_pos"), which are the result's, or the rows of `index_df`.
    """
    ensure((index_df is None) != (index_axis_names is None), "give either index_axis_names or index_df, not both")
    if index_df is None:
        names = index_axis_names or ()
        layers, heads, n = model.cfg.n_layers, model.cfg.n_heads, corrupted_tokens.shape[-1]
        sizes = {"layer": layers, "pos": n, "src_pos": n, "dest_pos": n, "head": heads, "head_index": heads}
        unknown = [name for name in names if name not in sizes]
        ensure(not unknown, f"index_axis_names = {unknown}; allowed: {', '.join(sizes)}")
        shape = [sizes[name] for name in names]
        index_df = make_df_from_ranges(shape, names)
    else:
        shape = [len(index_df)]

    def value(index: list[int]) -> float:
        name = get_act_name(activation_name, layer=index[0])

        def patch(corrupted: Tensor, hook: Any) -> Tensor:
            return patch_setter(corrupted, index, clean_cache[name])

        return patching_metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[(name, patch)])).item()

    values = [value(index) for index in shown(index_df.to_numpy().tolist(), "patching", len(index_df))]
    result = torch.tensor(values, device=model.cfg.device).reshape(shape)
    return (result, index_df) if return_index_df else result


# ---------------------------------------------------------------------- what is written at an index

AXES = {"pos": 1, "head": 2, "head_index": 1, "dest_pos": 2, "src_pos": 3}
"""Where activations [batch, pos, head, ...] and patterns [batch, head_index, dest_pos, src_pos] have their axes."""


def _setter(*axes: str) -> Setter:
    """Of an index [layer, ...], which goes along these axes of the activation after its layer."""

    def set_patch(corrupted_activation: Tensor, index: list[int], clean_activation: Tensor) -> Tensor:
        ensure(len(index) == len(axes) + 1, f"index = {list(index)}; a layer and {len(axes)} more are needed")
        place: list[Any] = [slice(None)] * corrupted_activation.ndim
        for axis, i in zip(axes, index[1:], strict=True):
            place[AXES[axis]] = i
        corrupted_activation[tuple(place)] = clean_activation[tuple(place)]
        return corrupted_activation

    return set_patch


layer_pos_patch_setter, layer_pos_head_vector_patch_setter = _setter("pos"), _setter("pos", "head")
layer_head_vector_patch_setter, layer_head_pattern_patch_setter = _setter("head"), _setter("head_index")
layer_head_pos_pattern_patch_setter = _setter("head_index", "dest_pos")
layer_head_dest_src_pos_pattern_patch_setter = _setter("head_index", "dest_pos", "src_pos")

# ---------------------------------------------------------------------- the usual patches

_HEADS = {"out": "z", "q": "q", "k": "k", "v": "v"}
PATCHES = {
    **{site: (site, "pos") for site in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
    **{f"attn_head_{name}_by_pos": (site, "pos", "head") for name, site in _HEADS.items()},
    **{f"attn_head_{name}_all_pos": (site, "head") for name, site in _HEADS.items()},
    "attn_head_pattern_all_pos": ("pattern", "head_index"),
    "attn_head_pattern_by_pos": ("pattern", "head_index", "dest_pos"),
    "attn_head_pattern_dest_src_pos": ("pattern", "head_index", "dest_pos", "src_pos"),
}
"""What each `get_act_patch_...` patches, and the axes that it goes along after the layers."""

EVERY = {
    "block_every": ("resid_pre", "attn_out", "mlp_out"),
    "attn_head_all_pos_every": [f"attn_head_{name}_all_pos" for name in (*_HEADS, "pattern")],
    "attn_head_by_pos_every": [f"attn_head_{name}_by_pos" for name in (*_HEADS, "pattern")],
}
"""The patches whose values each `get_act_patch_..._every` stacks."""


def _patches(site: str, *axes: str) -> Callable[..., Any]:
    """`generic_activation_patch` of one activation over layers and these axes; its other options go by keyword."""

    def get_act_patch(
        model: Any,
        corrupted_tokens: Int[Tensor, "batch pos"],
        clean_cache: Any,
        patching_metric: LogitMetric,
        **options: Any,
    ) -> Any:
        heads, kv_heads = model.cfg.n_heads, model.cfg.n_key_value_heads or model.cfg.n_heads
        ensure(
            site not in ("k", "v") or kv_heads == heads,
            f"hook_{site} has {kv_heads} heads here, which {heads} query heads share; patch them with "
            f"interp.patching.sweep(model.core, ..., site={site!r}, over=('layer', 'head'))",
        )
        if options or "src_pos" in axes or not _can_sweep(model, clean_cache, site):
            options = {"index_axis_names": ("layer", *axes), **options}
            return generic_activation_patch(
                model, corrupted_tokens, clean_cache, patching_metric, _setter(*axes), site, **options
            )

        def metric(logits: Tensor) -> Tensor:
            return torch.as_tensor(patching_metric(logits)).reshape(())

        over: Any = ("layer", *({"head_index": "head", "dest_pos": "pos"}.get(axis, axis) for axis in axes))
        found = sweep(model.core, corrupted_tokens, clean_cache.core, metric, site, over)
        return torch.tensor(found.values, dtype=torch.get_default_dtype(), device=model.cfg.device)

    return get_act_patch


def _every(patches: Sequence[str]) -> Callable[[Any, Tensor, Any, LogitMetric], Float[Tensor, "patch layer ..."]]:
    """The values of several patches, stacked; rows of patterns go by position and head, as all others."""

    def get_act_patch_every(model: Any, corrupted_tokens: Tensor, clean_cache: Any, metric: LogitMetric) -> Tensor:
        found = [_patches(*PATCHES[name])(model, corrupted_tokens, clean_cache, metric) for name in patches]
        by_query = ["dest_pos" in PATCHES[name] for name in patches]
        return torch.stack([one.transpose(1, 2) if turn else one for one, turn in zip(found, by_query, strict=True)])

    return get_act_patch_every


def _can_sweep(model: Any, clean_cache: Any, site: str) -> bool:
    """Whether the core has all that a sweep needs, and a loop would neither make a mask nor read what was edited."""
    core, cache = getattr(model, "core", None), getattr(clean_cache, "core", None)
    if not isinstance(core, interp.HookedTransformer) or not isinstance(cache, interp.ActivationCache):
        return False
    if model.padding_side == "left" or any(point.hooks for point in core.hook_points.values()):
        return False
    names = [get_act_name(site, layer) for layer in range(core.cfg.n_layers)]
    held = clean_cache.cache_dict
    return all(name in held and name in cache and torch.equal(held[name], cache[name]) for name in names)


def _named(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A function under the name by which users call it: errors of its arguments say it, and pickles find it."""
    made.__name__ = made.__qualname__ = name
    return made


for _name, _what in PATCHES.items():
    globals()[f"get_act_patch_{_name}"] = _named(f"get_act_patch_{_name}", _patches(*_what))
for _name, _parts in EVERY.items():
    globals()[f"get_act_patch_{_name}"] = _named(f"get_act_patch_{_name}", _every(_parts))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Any]:
        """Those functions: (model, corrupted_tokens, clean_cache, patching_metric) to values."""
        ...
