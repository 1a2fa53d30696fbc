"""Sparse dictionaries: their arithmetic against loops, their files, and what they do in a run."""

import copy
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from grid import GRID, assert_close, build, config, random_tensor, random_tokens
from safetensors.torch import save_file
from torch import Tensor

from interp import CheckpointError, ConfigError, HookedTransformer, ShapeError
from interp.dictionaries import SparseDictionary
from interp.harvest import loss_recovered
from interp.interventions import Apply

N, WIDTH = 30, 24
KINDS: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu_uncentred": {"apply_b_dec_to_input": False},
    "jumprelu": {"activation": "jumprelu"},
    "topk": {"activation": "topk", "k": 3},
    "gated": {"activation": "gated"},
    "layer_norm": {"normalize_activations": "layer_norm"},
    "rescaled": {"normalize_activations": "constant_norm_rescale", "activation": "jumprelu"},
}


def weights(activation: str = "relu", d_out: int = WIDTH, d_in: int = WIDTH) -> dict[str, Tensor]:
    extra = {"gated": ("b_gate", "r_mag", "b_mag"), "jumprelu": ("b_enc", "threshold")}.get(activation, ("b_enc",))
    found = {"W_enc": random_tensor(d_in, N, seed=1), "W_dec": random_tensor(N, d_out, seed=2) / 5}
    found |= {"b_dec": random_tensor(d_out, seed=3) / 3}
    return found | {name: random_tensor(N, seed=i + 4) / 3 for i, name in enumerate(extra)}


def dictionary(kind: str = "relu", **options: Any) -> SparseDictionary:
    given: dict[str, Any] = KINDS[kind] | {"hook_name": "blocks.1.hook_resid_post"} | options
    return SparseDictionary(weights(given.get("activation", "relu")), **given)


def by_hand(x: list[float], kind: str) -> tuple[list[float], list[float]]:
    """Features and approximation of one vector, number by number."""
    options = KINDS[kind]
    w = {name: tensor.tolist() for name, tensor in weights(options.get("activation", "relu")).items()}
    mean, scale, norm = 0.0, 1.0, options.get("normalize_activations")
    read = x
    if norm == "layer_norm":
        mean = sum(x) / WIDTH
        scale = math.sqrt(sum((one - mean) ** 2 for one in x) / (WIDTH - 1))
        read = [(one - mean) / (scale + 1e-5) for one in x]
    elif norm == "constant_norm_rescale":
        scale = math.sqrt(sum(one**2 for one in x) / WIDTH)
        read = [one / scale for one in x]
    if options.get("apply_b_dec_to_input", True):
        read = [one - b for one, b in zip(read, w["b_dec"], strict=True)]
    products = [sum(read[i] * w["W_enc"][i][f] for i in range(WIDTH)) for f in range(N)]
    if kind == "gated":
        strengths = [products[f] * math.exp(w["r_mag"][f]) + w["b_mag"][f] for f in range(N)]
        features = [max(strengths[f], 0.0) if products[f] + w["b_gate"][f] > 0 else 0.0 for f in range(N)]
    else:
        before = [products[f] + w["b_enc"][f] for f in range(N)]
        kept = sorted(range(N), key=lambda f: -before[f])[: options.get("k", N)]
        lowest = w.get("threshold", [0.0] * N)
        features = [before[f] if f in kept and before[f] > max(lowest[f], 0.0) else 0.0 for f in range(N)]
    made = [sum(features[f] * w["W_dec"][f][i] for f in range(N)) + w["b_dec"][i] for i in range(WIDTH)]
    return features, [one * scale + mean for one in made]


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return build(config(GRID["learned_ln"]), seed=31)


# ---------------------------------------------------------------------------------------------- arithmetic


def test_features_and_approximations_are_those_of_the_formulas():
    x = random_tensor(2, 3, WIDTH, seed=9)
    for kind in KINDS:
        one = dictionary(kind)
        features, made = one.encode(x), one(x)
        for place in ((0, 0), (1, 2)):
            wanted_features, wanted = by_hand(x[place].tolist(), kind)
            assert_close(features[place], torch.tensor(wanted_features, dtype=torch.float64))
            assert_close(made[place], torch.tensor(wanted, dtype=torch.float64))
        assert 0 < (features > 0).double().mean() < 1
        assert torch.equal(one.decode(features, x), made)


def test_half_precision_goes_in_and_comes_out_while_features_have_the_dtype_of_the_weights():
    one, x = dictionary("jumprelu"), random_tensor(2, WIDTH, seed=9).bfloat16()
    assert one.encode(x).dtype == torch.float64 and one(x).dtype == torch.bfloat16
    assert torch.equal(one(x), one(x.double()).bfloat16())


def test_heads_are_read_side_by_side():
    one = SparseDictionary(weights(d_in=20, d_out=20), flattens_heads=True)
    z = random_tensor(2, 3, 4, 5, seed=6)
    assert_close(one(z), SparseDictionary(weights(d_in=20, d_out=20))(z.flatten(-2)).view(2, 3, 4, 5))
    with pytest.raises(ShapeError, match=r"head \* d_head = 20, not a tensor of shape \(2, 3, 4, 6\)"):
        one(torch.zeros(2, 3, 4, 6))


# ---------------------------------------------------------------------------------------------- in a run


def in_place_of(one: SparseDictionary, x: Tensor, hook: Any) -> Tensor:
    return one(x)


def test_spliced_with_its_error_a_run_is_the_same_to_the_last_bit(model: HookedTransformer):
    tokens = random_tokens(model.cfg, 1)
    plain = model(tokens)
    for kind in KINDS:
        with model.intervene(dictionary(kind).splice()):
            assert torch.equal(model(tokens), plain)
        with model.intervene(dictionary(kind).splice(error=False)):
            spliced = model(tokens)
        one = dictionary(kind)
        writes = partial(in_place_of, one)
        assert_close(spliced, model.run_with_hooks(tokens, fwd_hooks=[(("resid_post", 1), writes)]))
        assert not torch.allclose(spliced, plain)


def test_an_edit_of_features_moves_the_stream_by_their_directions(model: HookedTransformer):
    tokens = random_tokens(model.cfg, 1)
    _, cache = model.run_with_cache(tokens)
    one = dictionary()
    features = one.encode(cache["resid_post", 1])
    edits: list[Any] = [{7: 0.0, 11: 2.5}, lambda found: found.index_fill(-1, torch.tensor(7), 0.0).index_fill(
        -1, torch.tensor(11), 2.5)]  # fmt: skip
    for edit in edits:
        with model.intervene(one.splice(edit, pos=[0, -1])):
            _, edited = model.run_with_cache(tokens)
        moved = edited["resid_post", 1] - cache["resid_post", 1]
        wanted = (2.5 - features[..., 11:12]) * one.W_dec[11] - features[..., 7:8] * one.W_dec[7]
        wanted[:, 1:-1] = 0
        assert_close(moved, wanted)
    with model.intervene(one.splice({7: 0.0}, error=False)):
        _, edited = model.run_with_cache(tokens)
    features[..., 7] = 0
    assert_close(edited["resid_post", 1], features @ one.W_dec + one.b_dec)


def test_a_transcoder_reads_one_point_and_writes_another(model: HookedTransformer):
    tokens = random_tokens(model.cfg, 1)
    options: dict[str, Any] = {"apply_b_dec_to_input": False, "hook_name": "blocks.2.ln2.hook_normalized"}
    one = SparseDictionary(weights(), hook_name_out="blocks.2.hook_mlp_out", **options)
    _, cache = model.run_with_cache(tokens)
    with model.intervene(one.splice(error=False)):
        _, edited = model.run_with_cache(tokens)
    assert_close(edited["mlp_out", 2], one(cache["normalized", 2, "ln2"]))
    with model.intervene(one.splice()):
        assert torch.equal(model(tokens), model(tokens))
        assert torch.equal(model.run_with_cache(tokens)[1]["mlp_out", 2], cache["mlp_out", 2])
    other = SparseDictionary(weights(), hook_name_out="blocks.1.hook_mlp_out", **options)
    with pytest.raises(ConfigError, match="reads and writes one layer"):
        other.splice()


def test_features_of_heads_are_spliced_at_z(model: HookedTransformer):
    tokens = random_tokens(model.cfg, 1)
    one = SparseDictionary(weights(d_in=20, d_out=20), flattens_heads=True, hook_name="blocks.0.attn.hook_z")
    plain = model(tokens)
    with model.intervene(one.splice()):
        assert torch.equal(model(tokens), plain)
    with model.intervene(one.splice({0: 3.0}, head=2)):
        assert not torch.allclose(model(tokens), plain)


def test_gradients_of_a_spliced_run_reach_the_features(model: HookedTransformer):
    tokens = random_tokens(model.cfg, 1)
    one = copy.deepcopy(dictionary("jumprelu"))
    one.requires_grad_()
    with model.intervene(one.splice()):
        model(tokens).sum().backward()
    assert one.W_dec.grad is not None and one.W_dec.grad.abs().sum() > 0


def test_a_splice_is_what_apply_says_and_a_corpus_measures_it(model: HookedTransformer):
    one = dictionary()
    assert one.splice(pos=0) == Apply(one, error_of=one, site="resid_post", layer=1, pos=0)
    other = SparseDictionary(weights()).splice(site="resid_pre", layer=0, error=False)
    assert other.site == "resid_pre" and other.layer == 0 and other.error_of is None
    texts = random_tokens(model.cfg, 5).tolist()
    assert loss_recovered(model, texts, one.splice(), n_ctx=8, progress=False).recovered == pytest.approx(
        1.0, abs=1e-12
    )


def test_what_cannot_be_spliced_is_named(as_installed: None):
    for name in ("hook_embed", "blocks.x.hook_z", "ln_final.hook_scale"):
        with pytest.raises(ConfigError, match=f"hook_name = '{name}' is no point of a layer"):
            SparseDictionary(weights(), hook_name=name).splice()
    with pytest.raises(ConfigError, match="has no hook_name; say where it belongs"):
        SparseDictionary(weights()).splice()
    for feature in (30, -1, "7", 1.5):
        with pytest.raises(ConfigError, match="is not there; allowed: 0 to 29"):
            dictionary().edited({feature: 0.0})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="is no activation, which is a number"):
        dictionary().edited({3: "off"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="is no activation, which is a number"):
        dictionary().edited({3: torch.ones(2)})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="allowed: a value for each feature"):
        dictionary().edited([3])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match=r"must keep this shape; it made \(2, 29\)"):
        dictionary().edited(lambda features: features[..., 1:])(random_tensor(2, WIDTH))


def test_weights_and_options_that_do_not_fit_are_named(as_installed: None):
    cases: list[tuple[dict[str, Tensor], dict[str, Any], str]] = [
        ({"threshold": torch.zeros(N)}, {}, "'threshold' is not part of it"),
        ({"b_enc": torch.zeros(N + 1)}, {}, r"b_enc has shape \(31,\); W_enc and W_dec say \(30,\)"),
        ({"W_dec": torch.zeros(N + 1, WIDTH)}, {}, r"have shapes \(24, 30\) and \(31, 24\)"),
        ({"b_dec": torch.zeros(WIDTH).half()}, {}, "dtypes torch.float16, torch.float64"),
        ({}, {"activation": "jumprelu"}, "'threshold' is missing"),
        ({}, {"activation": "topk"}, "allowed: None, or with 'topk' 1 to 30"),
        ({}, {"k": 3}, "k = 3 with activation = 'relu'"),
        ({}, {"activation": "topk", "k": 31}, "k = 31"),
        ({"W_dec": torch.zeros(N, 5).double(), "b_dec": torch.zeros(5).double()}, {}, "apply_b_dec_to_input=False"),
    ]
    with pytest.raises(ShapeError, match=r"dtypes torch.int64; one is needed, of floats"):
        SparseDictionary({name: weight.long() for name, weight in weights().items()})
    for change, options, message in cases:
        with pytest.raises((ShapeError, ConfigError), match=message):
            SparseDictionary(weights() | change, **options)


# ---------------------------------------------------------------------------------------------- files

ABOUT = {"d_in": WIDTH, "d_sae": N, "dtype": "torch.float32", "device": "cuda", "model_name": "gpt2-small"}


def write(folder: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(ABOUT | about))
    return folder


def test_files_of_every_kind_are_read(tmp_path: Path):
    x = random_tensor(2, WIDTH, seed=9)
    hook: dict[str, Any] = {"hook_name": "blocks.1.hook_resid_post", "hook_layer": 1, "hook_head_index": None}
    files: dict[str, dict[str, Any]] = {
        "relu": {"architecture": "standard", "metadata": hook},
        "relu_uncentred": {"apply_b_dec_to_input": False, "activation_fn_str": "relu"} | hook,
        "jumprelu": {"architecture": "jumprelu", "metadata": hook, "normalize_activations": "none"},
        "topk": {"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}} | hook,
        "gated": {"architecture": "gated"} | hook,
        "layer_norm": {"normalize_activations": "layer_norm"} | hook,
    }
    for kind, about in files.items():
        folder = write(tmp_path / kind, weights(KINDS[kind].get("activation", "relu")), about)
        read = SparseDictionary.from_pretrained(folder)
        assert torch.equal(read(x), dictionary(kind)(x)), kind
        assert read.hook_name == "blocks.1.hook_resid_post" and read.about["model_name"] == "gpt2-small"
    third = {"architecture": "topk", "k": 3, "metadata": hook}
    assert SparseDictionary.from_pretrained(write(tmp_path / "6", weights(), third)).k == 3
    assert SparseDictionary.from_pretrained(tmp_path / "6", dtype=torch.float32).W_enc.dtype == torch.float32
    scaled = weights() | {"scaling_factor": torch.arange(N).double()}
    read = SparseDictionary.from_pretrained(write(tmp_path / "7", scaled, hook | {"finetuning_scaling_factor": True}))
    one = dictionary()
    assert_close(read(x), one.decode(one.encode(x) * torch.arange(N), x))
    read = SparseDictionary.from_pretrained(write(tmp_path / "7", scaled, hook))
    assert torch.equal(read(x), one(x))  # there it is not used either


def test_files_of_transcoders_and_of_heads_are_read(tmp_path: Path):
    about: dict[str, Any] = {"architecture": "transcoder", "d_out": 12, "hook_name_out": "blocks.1.hook_mlp_out"}
    about |= {"metadata": {"hook_name": "blocks.1.ln2.hook_normalized"}}
    read = SparseDictionary.from_pretrained(write(tmp_path, weights(d_out=12), about))
    assert (read.d_out, read.apply_b_dec_to_input, read.hook_name_out) == (12, False, "blocks.1.hook_mlp_out")
    assert read.splice().reads == ("normalized", "ln2")
    assert SparseDictionary.from_pretrained(
        write(tmp_path, weights(), {"hook_name": "blocks.1.attn.hook_z"})
    ).flattens_heads


@pytest.mark.parametrize(
    ("about", "tensors", "message"),
    [
        ({"architecture": "skip_transcoder"}, {}, r"cfg.json: architecture = 'skip_transcoder' is not supported; supp"),
        ({"normalize_activations": "expected_average_only_in"}, {}, "its factor is not in the file, fold it in; allow"),
        ({"hook_head_index": 3}, {}, "hook_head_index = 3 is not supported; allowed: None"),
        ({"rescale_acts_by_decoder_norm": True}, {}, "rescale_acts_by_decoder_norm = True is not supported"),
        ({"activation_fn": "tanh-relu"}, {}, "activation_fn = 'tanh-relu' is not supported"),
        ({"architecture": "topk"}, {}, "k = None; 'topk' needs a positive integer"),
        ({"architecture": "jumprelu"}, {}, r"sae_weights.safetensors: tensor 'threshold' is missing"),
        ({}, {"log_sparsity": torch.zeros(N)}, "tensor 'log_sparsity' is not part of such a dictionary"),
        ({"d_sae": 31}, {}, r"tensor '.*' has shape \(.*30.*\); cfg.json says \(.*31.*\)"),
        ({"d_sae": None}, {}, "d_sae = None; an integer is needed"),
        ({"d_in": 24.0}, {}, r"d_in = 24\.0; an integer is needed"),
        ({"architecture": ["topk"]}, {}, r"architecture = .* is not supported"),
        ({"architecture": "topk", "k": True}, {}, "k = True; 'topk' needs a positive integer"),
        ({"activation_fn": "topk", "activation_fn_kwargs": [3]}, {}, "'topk' needs a positive integer"),
        ({"hook_name": 5}, {}, "hook_name = 5; allowed: the name of a hook point"),
        ({"metadata": [1]}, {}, r"metadata = .*; allowed: an object"),
        ({"architecture": "transcoder"}, {}, "hook_name_out is missing"),
    ],
)
def test_files_that_are_not_computed_are_named(
    tmp_path: Path, about: dict[str, Any], tensors: dict[str, Tensor], message: str
):
    folder = write(tmp_path, weights() | tensors, about)
    with pytest.raises(CheckpointError, match=message):
        SparseDictionary.from_pretrained(folder)


def test_files_that_are_missing_and_pickles_are_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"cfg.json cannot be read"):
        SparseDictionary.from_pretrained(tmp_path)
    (write(tmp_path, weights(), {}) / "sae_weights.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"sae_weights.safetensors cannot be read"):
        SparseDictionary.from_pretrained(tmp_path)
    torch.save({}, tmp_path / "sae_weights.pt")
    with pytest.raises(CheckpointError, match=r"sae_weights.pt is a pickle, .* never loaded here"):
        SparseDictionary.from_pretrained(tmp_path)
