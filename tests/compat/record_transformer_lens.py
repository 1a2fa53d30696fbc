"""What TransformerLens 2.16 computes on seven small models, as plain numbers: `transformer_lens_2_16.json` beside this.

Run by hand, where TransformerLens 2.16 is installed: python tests/compat/record_transformer_lens.py

`measure` takes the library as an argument, so that the record and `test_recorded_numbers.py` are one program, run with
two libraries. Weights are a formula of their names and indices; no file of weights is needed. Of each tensor a few
numbers are kept (`digest`).
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
FILE = HERE / "transformer_lens_2_16.json"

BASE = {"n_layers": 2, "d_model": 12, "n_heads": 4, "d_head": 3, "d_mlp": 8, "d_vocab": 19, "n_ctx": 16, "eps": 1e-5,
        "act_fn": "gelu_new", "normalization_type": "LN", "seed": 0, "device": "cpu"}  # fmt: skip
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 4, "d_head": 4}
KINDS: dict[str, dict[str, Any]] = {
    "layer norm": BASE,
    "folded": BASE,
    "grouped": BASE
    | ROTARY
    | {
        "normalization_type": "RMS",
        "final_rms": True,
        "n_key_value_heads": 2,
        "gated_mlp": True,
        "act_fn": "silu",
    },
    "rotary": BASE | ROTARY,
    "parallel": BASE | ROTARY | {"parallel_attn_mlp": True, "rotary_dim": 2, "act_fn": "gelu"},
    "shortformer": BASE | {"positional_embedding_type": "shortformer", "attn_only": True},
    "solu": BASE | {"act_fn": "solu_ln"},
}
LAZY = ("attn_result", "split_qkv_input", "hook_mlp_in")
"""Points that their configuration switches on."""
TOKENS = torch.tensor([[1, 5, 2, 8, 5, 2], [3, 7, 11, 4, 7, 16]])
CORRUPTED = torch.tensor([[1, 6, 2, 9, 6, 2], [3, 10, 11, 12, 10, 16]])
RIGHT, WRONG = torch.tensor([4, 9]), torch.tensor([14, 0])


def weight(name: str, shape: torch.Size) -> Tensor:
    """A wave over the entries whose phase the name gives; gains are near one."""
    phase = zlib.crc32(name.replace("._", ".").encode()) % 1000
    entries = torch.arange(math.prod(shape), dtype=torch.float64)
    wave = torch.sin(entries * 1.618 + entries**2 * 0.0137 + phase).reshape(shape) * 0.4
    return (1 + wave if name.endswith(".w") else wave).float()


@functools.cache
def tokenizer() -> Any:
    """Words w0 to w18 as a tokenizer of transformers, loaded from files as published ones are; w18 starts and pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(BASE["d_vocab"])}, unk_token="w18"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with tempfile.TemporaryDirectory() as folder:
        special = {f"{name}_token": "w18" for name in ("bos", "eos", "pad", "unk")}
        PreTrainedTokenizerFast(tokenizer_object=backend, **special, add_bos_token=True).save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)


def build(lens: Any, kind: str) -> Any:
    """The model of a kind, by either library."""
    model = lens.HookedTransformer(lens.HookedTransformerConfig(**KINDS[kind]), tokenizer=tokenizer())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, parameter.shape))
            if model.cfg.gated_mlp and name.endswith((".b_in", ".b_gate")):  # theirs has another bias, of no use
                parameter.zero_()
    if kind == "folded":
        model.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=True)
        model.setup()  # theirs goes on watching the norms that it replaced
    return model.eval()


def has_middle(model: Any) -> bool:
    """Whether its blocks have a stream between attention and neurons."""
    return not (model.cfg.attn_only or model.cfg.parallel_attn_mlp)


def digest(value: Any) -> Any:
    """A tensor as its shape, how many entries are finite, root mean square, a wave over its entries, and three of them.

    Entries that are not finite (scores behind the mask) count as 0. What is no tensor stays as it is.
    """
    if isinstance(value, Tensor):
        flat = value.detach().double().flatten()
        finite = int(flat.isfinite().sum())
        flat = flat.where(flat.isfinite(), 0)
        wave = torch.sin(torch.arange(flat.numel()) * 0.7)
        numbers = [
            flat.square().mean().sqrt(),
            flat @ wave.double() / math.sqrt(flat.numel()),
            *flat[[0, flat.numel() // 2, -1]],
        ]
        return {"shape": [*value.shape, finite], "numbers": [float(f"{float(one):.8g}") for one in numbers]}
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, list | tuple):
        return [digest(one) for one in value]
    return value


# ---------------------------------------------------------------- what is measured: functions of (lens, model)


def running(lens: Any, model: Any) -> dict[str, Any]:
    """Logits, losses, a padded batch, parts of the model alone, greedy texts."""
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    beside_padding = model(["w3 w5", "w4 w2 w8 w9"], padding_side="left")
    middle = model(TOKENS, stop_at_layer=1)
    found = {
        "logits": model(TOKENS),
        "loss": model(TOKENS, return_type="loss"),
        "loss per token": model(TOKENS, return_type="loss", loss_per_token=True),
        "both": list(model(TOKENS, return_type="both")),
        "padded": model(TOKENS, attention_mask=real)[real.bool()],  # of padding each library makes what it likes
        "stopped": middle,
        "generated": model.generate(
            TOKENS, max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False
        ).tolist(),
        "padded on the left": [beside_padding[0, 2:], beside_padding[1]],
        "texts": [
            model.to_tokens(["w3 w5", "w4 w2 w8"]).tolist(),
            model.to_str_tokens("w3 w5"),
            model.to_single_token("w7"),
        ],
        "directions": model.tokens_to_residual_directions(TOKENS),
        "normalization": model.cfg.normalization_type,
    }
    if model.cfg.positional_embedding_type != "shortformer":  # which adds positions in every layer
        found["started"] = model(middle, start_at_layer=1)
    return found


def caching(lens: Any, model: Any) -> dict[str, Any]:
    """Every point of a cached run, those that flags switch on, and the gradients of a loss."""
    _, cache = model.run_with_cache(TOKENS)
    _, backward = model.run_with_cache(
        TOKENS, return_type="loss", incl_bwd=True, names_filter=lambda name: "resid" in name
    )
    _, single = model.run_with_cache(TOKENS[:1], remove_batch_dim=True, names_filter="blocks.1.hook_resid_post")
    found = {name: cache[name] for name in sorted(cache.keys())}
    found |= {name: backward[name] for name in sorted(backward.keys()) if name.endswith("_grad")}
    found["without batch"] = single["resid_post", 1]
    for flag in LAZY:
        if flag != "hook_mlp_in" or has_middle(model):
            getattr(model, f"set_use_{flag}")(True)
    _, more = model.run_with_cache(TOKENS)
    return found | {name: more[name] for name in sorted(more.keys()) if name not in cache.keys()}  # noqa: SIM118


def decomposing(lens: Any, model: Any) -> dict[str, Any]:
    """Decompositions of the residual stream, in the forms that notebooks ask for."""
    _, cache = model.run_with_cache(TOKENS)
    forms: dict[str, dict[str, Any]] = {"last": {"layer": -1}, "one": {"layer": 1}, "none": {"layer": None},
                                        "position": {"layer": -1, "pos_slice": -1},
                                        "normalized": {"layer": -1, "apply_ln": True},
                                        "both": {"layer": 1, "apply_ln": True, "pos_slice": (1, 4)}}  # fmt: skip
    found: dict[str, Any] = {}
    for form, given in forms.items():
        found[f"accumulated {form}"] = cache.accumulated_resid(incl_mid=has_middle(model), return_labels=True, **given)
        found[f"decomposed {form}"] = cache.decompose_resid(return_labels=True, **given)
        if given["layer"] is not None:
            found[f"heads {form}"] = cache.stack_head_results(return_labels=True, **given)
            found[f"heads and rest {form}"] = cache.stack_head_results(incl_remainder=True, **given)
        found[f"full {form}"] = cache.get_full_resid_decomposition(expand_neurons=False, return_labels=True, **given)
        if not model.cfg.attn_only:
            found[f"full neurons {form}"] = cache.get_full_resid_decomposition(
                expand_neurons=True, return_labels=True, **given
            )
            if given["layer"] is not None:
                found[f"neurons {form}"] = cache.stack_neuron_results(return_labels=True, incl_remainder=True, **given)
    for mode in ("attn",) if model.cfg.attn_only else ("attn", "mlp"):
        found[f"decomposed {mode}"] = cache.decompose_resid(layer=-1, mode=mode, incl_embeds=False, return_labels=True)
    if not model.cfg.attn_only:
        found["input of the neurons"] = cache.decompose_resid(layer=1, mlp_input=True, apply_ln=True)
        found["neurons of a layer"] = cache.get_neuron_results(1, neuron_slice=(2, 5), pos_slice=-1)
    rows = cache.decompose_resid(layer=-1)
    found["normalized rows"] = cache.apply_ln_to_stack(rows, layer=-1)
    found["normalized row"] = cache.apply_ln_to_stack(rows[1, :, -1], layer=-1, pos_slice=-1)
    found["normalized for a layer"] = cache.apply_ln_to_stack(rows, layer=1)
    found["attributed"] = cache.logit_attrs(rows, tokens=RIGHT[:, None], incorrect_tokens=WRONG[:, None])
    found["attributed to one"] = cache.logit_attrs(rows[:, :, -1:], tokens=5, pos_slice=(5, 6))
    found["attributed at a position"] = cache.logit_attrs(rows[:, :, -1], tokens=RIGHT, pos_slice=-1)
    found["stacked"] = cache.stack_activation("z")
    found["stacked before"] = cache.stack_activation("resid_pre", 1)
    return found


def patching(lens: Any, model: Any) -> dict[str, Any]:
    """Every function of the module of that name, with a metric that looks at the last position."""
    module = importlib.import_module(f"{lens.__name__}.patching")
    _, cache = model.run_with_cache(TOKENS)
    rows = torch.arange(2)

    def metric(logits: Tensor) -> Tensor:
        return (logits[rows, -1, RIGHT] - logits[rows, -1, WRONG]).mean()

    found = {}
    for name in sorted(name for name in dir(module) if name.startswith("get_act_patch")):
        absent = ["resid_mid"] * (not has_middle(model)) + ["mlp_out", "block_every"] * model.cfg.attn_only
        if model.cfg.n_key_value_heads:  # theirs looks for a key of each head
            absent += ["head_k", "head_v", "attn_head_all_pos_every", "attn_head_by_pos_every"]
        if not any(part in name for part in absent):
            found[name] = getattr(module, name)(model, CORRUPTED, cache, metric)
    return found


def weights(lens: Any, model: Any) -> dict[str, Any]:
    """Circuits of the weights: composition, singular values, eigenvalues, stacked weights and biases."""
    found: dict[str, Any] = {f"composition {mode}": model.all_composition_scores(mode) for mode in "QKV"}
    for name in ("QK", "OV"):
        circuit = getattr(model, name)
        u, s, v = circuit.svd()
        eigenvalues = circuit.eigenvalues
        found |= {
            f"{name} product": circuit.AB,
            f"{name} singular values": s,
            f"{name} from its parts": (u * s[..., None, :]) @ v.transpose(-1, -2),
            f"{name} shapes": [list(part.shape) for part in (circuit.U, circuit.S, circuit.Vh)],
            f"{name} eigenvalues": [eigenvalues.abs().sum(-1), eigenvalues.sum(-1).real],
            f"{name} norm": circuit.norm(),
            f"{name} even": circuit.make_even().AB,
            f"{name} corner": circuit.get_corner(2),
            f"{name} of a head": circuit[1, 2].AB,
            f"{name} collapsed": [
                (circuit.collapse_l().mT @ circuit.collapse_l()),
                circuit.collapse_r() @ circuit.collapse_r().mT,
            ],
            f"{name} transposed": circuit.T.AB,
        }
    whole = model.embed.W_E @ model.OV @ model.unembed.W_U
    found["whole OV"] = [whole.AB, whole.eigenvalues.sum(-1).real]
    stacked = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_O", "W_E", "W_U", "b_U"]
    stacked += [] if model.cfg.attn_only else ["W_in", "W_out", "b_in", "b_out"]
    found |= {name: getattr(model, name) for name in stacked if not (model.cfg.gated_mlp and name in ("b_in", "b_out"))}
    if not model.cfg.attn_only:
        found["biases so far"] = [
            model.accumulated_bias(1),
            model.accumulated_bias(2),
            model.accumulated_bias(1, mlp_input=True),
        ]
    return found


def heads(lens: Any, model: Any) -> dict[str, Any]:
    """The three patterns that the head detector knows, and how well each head of layer 1 fits them."""
    module = importlib.import_module(f"{lens.__name__}.head_detector")
    _, cache = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    found: dict[str, Any] = {}
    for name in ("previous_token", "duplicate_token", "induction"):
        pattern = getattr(module, f"get_{name}_head_detection_pattern")(TOKENS[:1])
        found[name] = pattern
        for error in ("mul", "abs"):
            for rest in ({}, {"exclude_bos": True, "exclude_current_token": True}):
                options = {"exclude_bos": False, "exclude_current_token": False, "error_measure": error} | rest
                score = module.compute_head_attention_similarity_score
                found[f"{name} {error} {len(rest)}"] = [
                    float(score(cache["pattern", 1][head].clone(), detection_pattern=pattern, **options))
                    for head in range(4)
                ]
    return found


MEASURES: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    one.__name__: one for one in (running, caching, decomposing, patching, weights, heads)
}


def measure(lens: Any, kind: str, what: str) -> dict[str, Any]:
    """The digests of one measure on one model."""
    return {name: digest(value) for name, value in MEASURES[what](lens, build(lens, kind)).items()}


if __name__ == "__main__":
    import transformer_lens  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    record = {kind: {what: measure(transformer_lens, kind, what) for what in MEASURES} for kind in KINDS}
    FILE.write_text(
        json.dumps(record, separators=(",", ":"), allow_nan=False).replace('},"', '},\n"') + "\n", encoding="utf-8"
    )
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
